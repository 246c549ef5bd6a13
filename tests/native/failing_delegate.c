/* A delegate that fails when it is applied, upon which LiteRT undoes all delegates (tests/test_runtime.py). */
#include <stddef.h>

#include "abi.h"

#define EXPORT __attribute__((visibility("default")))

static TfLiteStatus fail(TfLiteContext* context, TfLiteDelegate* delegate) {
  (void)context;
  (void)delegate;
  return kTfLiteError;
}

static TfLiteDelegate failing = {.Prepare = fail};

EXPORT TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                                     void (*report)(const char*)) {
  (void)keys;
  (void)values;
  (void)count;
  (void)report;
  return &failing;
}

EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) { (void)delegate; }
