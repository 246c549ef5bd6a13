#include "op.h"

#include <string.h>

static const FbsOpKind* const kKinds[] = {&fbs_conv2d_op,           &fbs_conv2d_int8_op,
                                          &fbs_gated_conv2d_op,     &fbs_gated_conv2d_int8_op,
                                          &fbs_depthwise_conv2d_op, &fbs_add_op};

const FbsOpKind* fbs_op_match(const TfLiteNode* node, const TfLiteRegistration* registration, const void** attributes,
                              size_t* size) {
  const TfLiteStablehloCompositeParams* composite = NULL;
  if (registration->builtin_code == kTfLiteBuiltinStablehloComposite) composite = node->builtin_data;
  const bool custom = registration->builtin_code == kTfLiteBuiltinCustom;
  const char* name = composite != NULL ? composite->name : custom ? registration->custom_name : NULL;
  if (name == NULL) return NULL;
  for (size_t i = 0; i < sizeof kKinds / sizeof *kKinds; ++i) {
    if (strcmp(name, custom ? kKinds[i]->custom_name : kKinds[i]->composite_name) != 0) continue;
    if (custom) {
      *attributes = node->custom_initial_data;
      *size = node->custom_initial_data_size > 0 ? (size_t)node->custom_initial_data_size : 0;
    } else {
      *attributes = composite->attributes;
      *size = composite->attributes_size;
    }
    return kKinds[i];
  }
  return NULL;
}
