#include "tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FbsDimsText fbs_dims_text(const TfLiteIntArray* dims) {
  FbsDimsText result = {"["};
  size_t used = 1;
  for (int i = 0; i < dims->size && used < sizeof result.text; ++i) {
    used += (size_t)snprintf(result.text + used, sizeof result.text - used, "%s%d", i > 0 ? ", " : "", dims->data[i]);
  }
  if (used < sizeof result.text) snprintf(result.text + used, sizeof result.text - used, "]");
  return result;
}

size_t fbs_type_size(int type) { return type == kTfLiteInt8 ? 1 : type == kTfLiteFloat16 ? 2 : 4; }

static const char* type_name(int type) {
  switch (type) {
    case kFbsFloat:
      return "float32 (1) or float16 (10)";
    case kTfLiteFloat32:
      return "float32 (1)";
    case kTfLiteInt8:
      return "int8 (9)";
    default:
      return "int32 (2)";
  }
}

static bool is_of(int type, int expected) {
  if (expected != kFbsFloat) return type == expected;
  return type == kTfLiteFloat32 || type == kTfLiteFloat16;
}

static const TfLiteTensor* find_tensor(const TfLiteContext* context, int index, const char* name, int type,
                                       FbsMessage* message) {
  if (index < 0 || (size_t)index >= context->tensors_size) {
    fbs_fail(message, "%s must be a tensor of the graph, got index %d of %zu", name, index, context->tensors_size);
    return NULL;
  }
  const TfLiteTensor* tensor = &context->tensors[index];
  if (!is_of(tensor->type, type)) {
    fbs_fail(message, "%s must be %s, got TFLite's type %d", name, type_name(type), tensor->type);
    return NULL;
  }
  return tensor;
}

const TfLiteTensor* fbs_find_input(const TfLiteContext* context, int index, const char* name, int type, int rank,
                                   FbsMessage* message) {
  const TfLiteTensor* tensor = find_tensor(context, index, name, type, message);
  if (tensor == NULL) return NULL;
  if (tensor->dims == NULL || (rank > 0 && tensor->dims->size != rank)) {
    fbs_fail(message, "%s must have %d dimensions, got %d", name, rank, tensor->dims != NULL ? tensor->dims->size : 0);
    return NULL;
  }
  size_t bytes = fbs_type_size(tensor->type);
  for (int i = 0; i < tensor->dims->size; ++i) {
    const int size = tensor->dims->data[i];
    if (size < 1) {
      fbs_fail(message, "every dimension of %s must be at least 1, got %s", name, fbs_dims_text(tensor->dims).text);
      return NULL;
    }
    if (bytes > SIZE_MAX / 2 / (size_t)size) {
      fbs_fail(message, "%s is too large: %s", name, fbs_dims_text(tensor->dims).text);
      return NULL;
    }
    bytes *= (size_t)size;
  }
  if (tensor->sparsity != NULL) {
    fbs_fail(message, "%s must not be stored in TFLite's sparse form", name);
    return NULL;
  }
  if (tensor->bytes != bytes) {
    fbs_fail(message, "%s %s must hold %zu bytes, got %zu", name, fbs_dims_text(tensor->dims).text, bytes,
             tensor->bytes);
    return NULL;
  }
  return tensor;
}

bool fbs_is_constant(const TfLiteTensor* tensor) {
  return tensor->allocation_type == kTfLiteMmapRo || tensor->allocation_type == kTfLitePersistentRo;
}

bool fbs_check_indices(const TfLiteContext* context, int index, const char* name, const char* x_name, int32_t batch,
                       int32_t active, int32_t channels, FbsMessage* message) {
  const TfLiteTensor* indices = fbs_find_input(context, index, name, kTfLiteInt32, 2, message);
  if (indices == NULL) return false;
  if (indices->dims->data[0] != batch || indices->dims->data[1] != active) {
    return fbs_fail(message, "%s must be [%" PRId32 ", %" PRId32 "], one index for each channel of %s, got %s", name,
                    batch, active, x_name, fbs_dims_text(indices->dims).text);
  }
  if (!fbs_is_constant(indices)) return true;
  if (indices->data == NULL || (uintptr_t)indices->data % 4 != 0) {
    return fbs_fail(message, "%s must be aligned to 4 bytes in the file", name);
  }
  const int32_t* values = indices->data;
  for (size_t i = 0; i < indices->bytes / 4; ++i) {
    if (values[i] < 0 || values[i] >= channels) {
      return fbs_fail(message, "%s must be in [0, %" PRId32 "), got %" PRId32, name, channels, values[i]);
    }
  }
  return true;
}

bool fbs_check_output(const TfLiteContext* context, int index, const char* name, int type, const int* others,
                      size_t count, FbsMessage* message) {
  const TfLiteTensor* tensor = find_tensor(context, index, name, type, message);
  if (tensor == NULL) return false;
  if (fbs_is_constant(tensor) || tensor->allocation_type >= kTfLiteVariantObject) {
    return fbs_fail(message, "%s must be writable memory, got TFLite's allocation type %d", name,
                    tensor->allocation_type);
  }
  for (size_t i = 0; i < count; ++i) {
    if (others[i] == index) return fbs_fail(message, "%s must not share its tensor with another operand", name);
  }
  return true;
}

bool fbs_resize(TfLiteContext* context, int index, const char* name, int rank, const int32_t* sizes,
                FbsMessage* message) {
  TfLiteIntArray* dims = malloc(sizeof *dims + (size_t)rank * sizeof *dims->data);
  if (dims == NULL) return fbs_fail(message, "out of memory for the shape of %s", name);
  dims->size = rank;
  memcpy(dims->data, sizes, (size_t)rank * sizeof *sizes);
  return context->ResizeTensor(context, &context->tensors[index], dims) == kTfLiteOk ||
         fbs_fail(message, "the runtime refuses the shape of %s", name);
}

FbsMemory fbs_memory_of(const TfLiteContext* context, int index, int64_t elements, bool* usable) {
  if (index == kFbsNoTensor) return (FbsMemory){NULL, 0};
  const TfLiteTensor* tensor = &context->tensors[index];
  if (tensor->data == NULL || (uintptr_t)tensor->data % 4 != 0 || tensor->bytes != (size_t)elements * 4) {
    *usable = false;
  }
  return (FbsMemory){tensor->data, tensor->bytes};
}

static bool overlap(FbsMemory a, FbsMemory b) {
  const uintptr_t a_begin = (uintptr_t)a.data, b_begin = (uintptr_t)b.data;
  return a_begin < b_begin + b.bytes && b_begin < a_begin + a.bytes;
}

bool fbs_check_memory(bool usable, const FbsMemory* outputs, size_t output_count, const FbsMemory* inputs,
                      size_t input_count, FbsMessage* message) {
  if (!usable) {
    return fbs_fail(message,
                    "a tensor has no memory, none aligned to 4 bytes, or another size or place than when it was "
                    "prepared; it must be the output of one op only");
  }
  bool shared = false;
  for (size_t i = 0; i < output_count; ++i) {
    for (size_t j = i + 1; j < output_count; ++j) shared |= overlap(outputs[i], outputs[j]);
    for (size_t j = 0; j < input_count; ++j) shared |= overlap(outputs[i], inputs[j]);
  }
  return !shared ||
         fbs_fail(message,
                  "an output must not share memory with another operand; a tensor must be the output of one op only");
}
