#include "constants.h"

#include <inttypes.h>
#include <stdlib.h>

#include "float16.h"

const TfLiteTensor* fbs_constant_find(const TfLiteContext* context, int index, const char* name, int type, int rank,
                                      const int32_t* sizes, FbsConstant* found, FbsMessage* message) {
  const TfLiteTensor* tensor = fbs_find_input(context, index, name, type, rank, message);
  if (tensor == NULL) return NULL;
  for (int i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || tensor->dims->data[i] == sizes[i]) continue;
    fbs_fail(message, "dimension %d of %s must be %" PRId32 ", got %s", i, name, sizes[i],
             fbs_dims_text(tensor->dims).text);
    return NULL;
  }
  if (!fbs_is_constant(tensor) || tensor->data == NULL) {
    fbs_fail(message,
             "%s must be a constant of the file; if TFLite's converter stored it as float16 or quantized, convert the "
             "model without its optimizations",
             name);
    return NULL;
  }
  const size_t element = fbs_type_size(tensor->type);
  if ((uintptr_t)tensor->data % element != 0) {
    fbs_fail(message, "%s must be aligned to %zu bytes in the file", name, element);
    return NULL;
  }
  *found = (FbsConstant){.tensor = index, .type = tensor->type, .source = tensor->data, .bytes = tensor->bytes};
  return tensor;
}

static size_t halves_of(const FbsConstant* constant) { return constant->bytes / fbs_type_size(kTfLiteFloat16); }

bool fbs_constant_replace(FbsConstant* held, const FbsConstant* found, FbsMessage* message) {
  if (fbs_constant_equal(held, found)) return true;
  fbs_constant_release(held);
  float* copy = NULL;
  if (found->type == kTfLiteFloat16) {
    copy = malloc(halves_of(found) * sizeof *copy);
    if (copy == NULL) return fbs_fail(message, "out of memory for a float32 copy of the weights");
    fbs_float16_expand(found->source, halves_of(found), copy);
  }
  *held = *found;
  held->copy = copy;
  return true;
}

void fbs_constant_release(FbsConstant* held) {
  free(held->copy);
  *held = (FbsConstant){.tensor = held->tensor};
}

const void* fbs_constant_data(const FbsConstant* constant) {
  return constant->copy != NULL ? constant->copy : constant->source;
}

size_t fbs_constant_copy_bytes(const FbsConstant* constant) {
  return constant->copy != NULL ? halves_of(constant) * sizeof *constant->copy : 0;
}

bool fbs_constant_equal(const FbsConstant* a, const FbsConstant* b) {
  return a->source == b->source && a->bytes == b->bytes && a->type == b->type;
}

bool fbs_constant_stayed(const FbsConstant* constant, const TfLiteContext* context) {
  const TfLiteTensor* tensor = &context->tensors[constant->tensor];
  return tensor->data == constant->source && tensor->bytes == constant->bytes && tensor->type == constant->type;
}
