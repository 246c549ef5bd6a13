/* Fuzzes the delegate's options: strings that end with a zero byte are keys, values and the environment's variables.
 * They are refused with a message, or options of this CPU. */
#include "../../tflite/delegate/options.h"
#include "fuzzing.h"

enum { kMostOptions = 8 };

/* The next string of the input; NULL where it begins with a byte of 1. */
static char* next_string(const uint8_t** data, size_t* left) {
  if (*left > 0 && **data == 1) {
    ++*data, --*left;
    return NULL;
  }
  const size_t length = strnlen((const char*)*data, *left);
  char* text = allocate(length + 1);
  memcpy(text, *data, length);
  text[length] = '\0';
  *data += length + (length < *left);
  *left -= length + (length < *left);
  return text;
}

static void set_environment(const char* name, char* value) {
  if (value == NULL) {
    unsetenv(name);
  } else {
    setenv(name, value, 1);
  }
  free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  set_environment("FBS_PATH", next_string(&data, &size));
  set_environment("FBS_METHOD", next_string(&data, &size));
  char *keys[kMostOptions], *values[kMostOptions];
  size_t count = 0;
  for (; count < kMostOptions && size > 0; count++) {
    keys[count] = next_string(&data, &size);
    values[count] = next_string(&data, &size);
  }
  FbsOptions options;
  FbsMessage message = {""};
  if (fbs_options_parse((const char* const*)keys, (const char* const*)values, count, &options, &message)) {
    CHECK(fbs_path_available(options.conv.path), "path %d", (int)options.conv.path);
    CHECK(options.conv.method < kFbsMethods, "method %d", (int)options.conv.method);
    CHECK(options.conv.winograd % 2 == 0 && options.conv.winograd <= 4, "winograd %d", options.conv.winograd);
    CHECK(memchr(options.profile, '\0', sizeof options.profile) != NULL, "a profile without an end");
  } else {
    CHECK(strlen(message.text) > 0 && strlen(message.text) < sizeof message.text, "no message");
  }
  for (size_t i = 0; i < count; i++) {
    free(keys[i]);
    free(values[i]);
  }
  return 0;
}
