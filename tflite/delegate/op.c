#include "op.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool fbs_op_match(const TfLiteNode* node, const TfLiteRegistration* registration, const void** attributes,
                  size_t* size) {
  if (registration->builtin_code == kTfLiteBuiltinCustom) {
    if (registration->custom_name == NULL || strcmp(registration->custom_name, "FbsConv2D") != 0) return false;
    *attributes = node->custom_initial_data;
    *size = node->custom_initial_data_size > 0 ? (size_t)node->custom_initial_data_size : 0;
    return true;
  }
  if (registration->builtin_code == kTfLiteBuiltinStablehloComposite && node->builtin_data != NULL) {
    const TfLiteStablehloCompositeParams* composite = node->builtin_data;
    if (composite->name == NULL || strcmp(composite->name, "fbs.conv2d") != 0) return false;
    *attributes = composite->attributes;
    *size = composite->attributes_size;
    return true;
  }
  return false;
}

bool fbs_op_parse(const TfLiteNode* node, const void* attributes, size_t size, FbsOp* op, FbsMessage* message) {
  if (!fbs_attributes_parse(attributes, size, &op->attributes, message)) return false;
  const int sparse_in = op->attributes.sparse_in;
  const int inputs = node->inputs != NULL ? node->inputs->size : 0;
  const int outputs = node->outputs != NULL ? node->outputs->size : 0;
  if (inputs != 5 + sparse_in) {
    return fbs_fail(message,
                    "expected %d inputs (x, %sweights, bias, gate_kernel, gate_bias) with sparse_in %d, got %d",
                    5 + sparse_in, sparse_in ? "in_indices, " : "", sparse_in, inputs);
  }
  if (outputs != 1 && outputs != 2) {
    return fbs_fail(message, "expected 1 output (y) or 2 (y, out_indices), got %d", outputs);
  }
  const int* operand = node->inputs->data;
  op->x = *operand++;
  op->in_indices = sparse_in ? *operand++ : kFbsNoTensor;
  op->weights = *operand++;
  op->bias = *operand++;
  op->gate_kernel = *operand++;
  op->gate_bias = *operand++;
  op->y = node->outputs->data[0];
  op->out_indices = outputs == 2 ? node->outputs->data[1] : kFbsNoTensor;
  return true;
}

/* "[1, 32, 32, 64]" */
typedef struct {
  char text[96];
} DimsText;

static DimsText dims_text(const TfLiteIntArray* dims) {
  DimsText result = {"["};
  size_t used = 1;
  for (int i = 0; i < dims->size && used < sizeof result.text; ++i) {
    used += (size_t)snprintf(result.text + used, sizeof result.text - used, "%s%d", i > 0 ? ", " : "", dims->data[i]);
  }
  if (used < sizeof result.text) snprintf(result.text + used, sizeof result.text - used, "]");
  return result;
}

/* Finds one tensor and checks what holds for all of them: type, rank, sizes of at least 1, and for inputs that there
 * are as many bytes as the shape asks for. The name is the operand's in docs/design.md. */
static const TfLiteTensor* find_tensor(const TfLiteContext* context, int index, const char* name, int type,
                                       FbsMessage* message) {
  if (index < 0 || (size_t)index >= context->tensors_size) {
    fbs_fail(message, "%s must be a tensor of the graph, got index %d of %zu", name, index, context->tensors_size);
    return NULL;
  }
  const TfLiteTensor* tensor = &context->tensors[index];
  if (tensor->type != type) {
    fbs_fail(message, "%s must be %s, got TFLite's type %d", name, type == kTfLiteFloat32 ? "float32 (1)" : "int32 (2)",
             tensor->type);
    return NULL;
  }
  return tensor;
}

static const TfLiteTensor* find_input(const TfLiteContext* context, int index, const char* name, int type, int rank,
                                      FbsMessage* message) {
  const TfLiteTensor* tensor = find_tensor(context, index, name, type, message);
  if (tensor == NULL) return NULL;
  if (tensor->dims == NULL || tensor->dims->size != rank) {
    fbs_fail(message, "%s must have %d dimensions, got %d", name, rank, tensor->dims != NULL ? tensor->dims->size : 0);
    return NULL;
  }
  const size_t element = 4; /* float32 and int32 */
  size_t bytes = element;
  for (int i = 0; i < rank; ++i) {
    const int size = tensor->dims->data[i];
    if (size < 1) {
      fbs_fail(message, "every dimension of %s must be at least 1, got %s", name, dims_text(tensor->dims).text);
      return NULL;
    }
    if (bytes > SIZE_MAX / 2 / (size_t)size) {
      fbs_fail(message, "%s is too large: %s", name, dims_text(tensor->dims).text);
      return NULL;
    }
    bytes *= (size_t)size;
  }
  if (tensor->sparsity != NULL) {
    fbs_fail(message, "%s must not be stored in TFLite's sparse form", name);
    return NULL;
  }
  if (tensor->bytes != bytes) {
    fbs_fail(message, "%s %s must hold %zu bytes, got %zu", name, dims_text(tensor->dims).text, bytes, tensor->bytes);
    return NULL;
  }
  return tensor;
}

static bool is_constant(const TfLiteTensor* tensor) {
  return tensor->allocation_type == kTfLiteMmapRo || tensor->allocation_type == kTfLitePersistentRo;
}

/* Finds a constant of the given shape, e.g. {C_in, C_out}; a size of 0 allows any. */
static const TfLiteTensor* find_constant(const TfLiteContext* context, int index, const char* name, int rank,
                                         const int32_t* sizes, FbsMessage* message) {
  const TfLiteTensor* tensor = find_input(context, index, name, kTfLiteFloat32, rank, message);
  if (tensor == NULL) return NULL;
  for (int i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || tensor->dims->data[i] == sizes[i]) continue;
    fbs_fail(message, "dimension %d of %s must be %" PRId32 ", got %s", i, name, sizes[i],
             dims_text(tensor->dims).text);
    return NULL;
  }
  if (!is_constant(tensor) || tensor->data == NULL) {
    fbs_fail(message,
             "%s must be a constant of the file; if it is stored as float16 or quantized, convert the model as float32",
             name);
    return NULL;
  }
  if ((uintptr_t)tensor->data % 4 != 0) {
    fbs_fail(message, "%s must be aligned to 4 bytes in the file", name);
    return NULL;
  }
  return tensor;
}

static bool check_output(const TfLiteContext* context, const FbsOp* op, int index, const char* name, int type,
                         FbsMessage* message) {
  const TfLiteTensor* tensor = find_tensor(context, index, name, type, message);
  if (tensor == NULL) return false;
  if (is_constant(tensor) || tensor->allocation_type >= kTfLiteVariantObject) {
    return fbs_fail(message, "%s must be writable memory, got TFLite's allocation type %d", name,
                    tensor->allocation_type);
  }
  const int others[] = {op->x, op->in_indices, index == op->y ? op->out_indices : op->y};
  for (size_t i = 0; i < sizeof others / sizeof *others; ++i) {
    if (others[i] == index) return fbs_fail(message, "%s must not share its tensor with another operand", name);
  }
  return true;
}

/* Output size and leading padding along one axis, TensorFlow's rule: SAME puts the odd zero at the end. */
static bool output_size(const char* axis, int32_t in, int32_t kernel, int32_t stride, int32_t dilation, bool same,
                        int32_t* out, int32_t* pad_before, FbsMessage* message) {
  const int64_t window = (int64_t)(kernel - 1) * dilation + 1;
  int64_t padding = 0;
  if (same) {
    *out = (int32_t)(((int64_t)in + stride - 1) / stride);
    padding = (int64_t)(*out - 1) * stride + window - in;
    if (padding < 0) padding = 0;
  } else {
    if (window > in) {
      return fbs_fail(message, "a window of %s %" PRId64 " does not fit an input of %s %" PRId32 " without padding",
                      axis, window, axis, in);
    }
    *out = (int32_t)((in - window) / stride + 1);
  }
  if (padding > INT32_MAX) {
    return fbs_fail(message, "a window of %s %" PRId64 " is too large for an input of %s %" PRId32, axis, window, axis,
                    in);
  }
  *pad_before = (int32_t)(padding / 2);
  return true;
}

static bool check_in_indices(const TfLiteContext* context, const FbsOp* op, const FbsConv2dShape* shape,
                             FbsMessage* message) {
  if (op->in_indices == kFbsNoTensor && !op->attributes.sparse_in) {
    if (shape->in_active == shape->in_channels) return true;
    return fbs_fail(message, "x must hold all %" PRId32 " channels of the weights with sparse_in 0, got %" PRId32,
                    shape->in_channels, shape->in_active);
  }
  const TfLiteTensor* indices = find_input(context, op->in_indices, "in_indices", kTfLiteInt32, 2, message);
  if (indices == NULL) return false;
  if (indices->dims->data[0] != shape->batch || indices->dims->data[1] != shape->in_active) {
    return fbs_fail(message, "in_indices must be [%" PRId32 ", %" PRId32 "], one index for each channel of x, got %s",
                    shape->batch, shape->in_active, dims_text(indices->dims).text);
  }
  if (shape->in_active > shape->in_channels) {
    return fbs_fail(message, "x must hold at most the %" PRId32 " channels of the weights, got %" PRId32,
                    shape->in_channels, shape->in_active);
  }
  if (!is_constant(indices)) return true; /* its values are checked when the op runs */
  if (indices->data == NULL || (uintptr_t)indices->data % 4 != 0) {
    return fbs_fail(message, "in_indices must be aligned to 4 bytes in the file");
  }
  const int32_t* values = indices->data;
  for (size_t i = 0; i < indices->bytes / 4; ++i) {
    if (values[i] < 0 || values[i] >= shape->in_channels) {
      return fbs_fail(message, "in_indices must be in [0, %" PRId32 "), got %" PRId32, shape->in_channels, values[i]);
    }
  }
  return true;
}

bool fbs_op_check(const TfLiteContext* context, const FbsOp* op, FbsConv2dShape* shape, FbsConv2dWeights* weights,
                  FbsMessage* message) {
  const FbsAttributes* a = &op->attributes;
  const int64_t taps = (int64_t)a->kernel_h * a->kernel_w;
  if (taps > INT32_MAX) {
    return fbs_fail(message, "a kernel of %" PRId32 " x %" PRId32 " is too large", a->kernel_h, a->kernel_w);
  }
  const TfLiteTensor* x = find_input(context, op->x, "x", kTfLiteFloat32, 4, message);
  if (x == NULL) return false;

  const TfLiteTensor* w = find_constant(context, op->weights, "weights", 3, (int32_t[]){0, (int32_t)taps, 0}, message);
  if (w == NULL) return false;
  const int32_t in_channels = w->dims->data[0], out_channels = w->dims->data[2];
  const TfLiteTensor* bias = find_constant(context, op->bias, "bias", 1, (int32_t[]){out_channels}, message);
  if (bias == NULL) return false;
  const int32_t gate_sizes[] = {in_channels, out_channels};
  const TfLiteTensor* gate_kernel = find_constant(context, op->gate_kernel, "gate_kernel", 2, gate_sizes, message);
  if (gate_kernel == NULL) return false;
  const TfLiteTensor* gate_bias =
      find_constant(context, op->gate_bias, "gate_bias", 1, (int32_t[]){out_channels}, message);
  if (gate_bias == NULL) return false;

  *weights = (FbsConv2dWeights){
      .weights = w->data, .bias = bias->data, .gate_kernel = gate_kernel->data, .gate_bias = gate_bias->data};
  *shape = (FbsConv2dShape){
      .batch = x->dims->data[0],
      .in_height = x->dims->data[1],
      .in_width = x->dims->data[2],
      .in_channels = in_channels,
      .in_active = x->dims->data[3],
      .out_channels = out_channels,
      .out_active = a->k,
      .group_size = a->group_size,
      .kernel_height = a->kernel_h,
      .kernel_width = a->kernel_w,
      .stride_height = a->stride_h,
      .stride_width = a->stride_w,
      .dilation_height = a->dilation_h,
      .dilation_width = a->dilation_w,
      .activation = a->activation,
  };
  if (!output_size("height", shape->in_height, a->kernel_h, a->stride_h, a->dilation_h, a->same_padding,
                   &shape->out_height, &shape->pad_top, message) ||
      !output_size("width", shape->in_width, a->kernel_w, a->stride_w, a->dilation_w, a->same_padding,
                   &shape->out_width, &shape->pad_left, message)) {
    return false;
  }

  if (a->k > out_channels) {
    return fbs_fail(message, "k must be in [1, %" PRId32 "], the channels of the weights, got %" PRId32, out_channels,
                    a->k);
  }
  const bool has_out_indices = op->out_indices != kFbsNoTensor;
  if (has_out_indices != (a->k < out_channels)) {
    return fbs_fail(message, "expected %s with k %" PRId32 " of %" PRId32 " channels, got %s",
                    has_out_indices ? "1 output (y)" : "2 outputs (y, out_indices)", a->k, out_channels,
                    has_out_indices ? "2" : "1");
  }
  return check_in_indices(context, op, shape, message) &&
         check_output(context, op, op->y, "y", kTfLiteFloat32, message) &&
         (!has_out_indices || check_output(context, op, op->out_indices, "out_indices", kTfLiteInt32, message));
}
