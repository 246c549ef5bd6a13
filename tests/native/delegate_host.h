/* A host of the delegate other than LiteRT: a TfLiteContext of our own around one FBS op, without a file.
 * Every buffer is exactly as large as its tensor, and memory that the delegate asks for is counted. */
#ifndef FBS_TESTS_NATIVE_DELEGATE_HOST_H_
#define FBS_TESTS_NATIVE_DELEGATE_HOST_H_

#include <stdarg.h>

#include "../../tflite/delegate/abi.h"
#include "testing.h"

/* flexbuffers.Dumps() of the attributes. kConv2dAttributes: k 3 of 6 channels, groups of 1, 3x2 kernel, stride 2x1,
 * dilation 1x2, SAME, RELU6. k3x3Attributes: k 8 of 12 channels, groups of 4, which every method computes, SAME.
 * kPooledAttributes: the same, pooled.
 * kDepthwiseAttributes: 3x2 kernel, stride 2x1, dilation 1x2, SAME, RELU6. kDepthwise3x3Attributes: SAME, RELU.
 * kAddAttributes: two addends, the second compact, 18 channels, RELU. */
#include "delegate_attributes.inc"

/* ---- counting allocations: linked with -Wl,--wrap ---- */

static unsigned allocations;

void* __real_malloc(size_t size);
void* __real_calloc(size_t count, size_t size);
void* __real_realloc(void* memory, size_t size);
int __real_posix_memalign(void** memory, size_t alignment, size_t size);

void* __wrap_malloc(size_t size) {
  ++allocations;
  return __real_malloc(size);
}
void* __wrap_calloc(size_t count, size_t size) {
  ++allocations;
  return __real_calloc(count, size);
}
void* __wrap_realloc(void* memory, size_t size) {
  ++allocations;
  return __real_realloc(memory, size);
}
int __wrap_posix_memalign(void** memory, size_t alignment, size_t size) {
  ++allocations;
  return __real_posix_memalign(memory, alignment, size);
}

/* ---- one op and its tensors ---- */

enum { kArenaRw = 2, kDynamic = 4 };
enum { kMostBytes = 1 << 24 }; /* what this host is willing to allocate */
enum { kMostTensors = 9 };

typedef struct {
  const char* name;
  int type, allocation_type, rank, sizes[4];
} Tensor;

typedef struct {
  const unsigned char* bytes;
  size_t size;
} Attributes;

typedef struct {
  const char *custom_name, *composite_name;
  Attributes attributes;
  int inputs, outputs; /* the first tensors, and those after them */
  int indices;         /* which tensor holds them */
  int channels;        /* which they are of */
  Tensor tensors[kMostTensors];
} Op;

/* x[2, 7, 5] holds 4 of 5 channels, y[2, height, width] k of `channels`; weights of int8 come with scales. */
static Op convolution(Attributes attributes, int weight_type, int gate_type, int taps, int channels, int height,
                      int width, int k) {
  const int int8 = weight_type == kTfLiteInt8;
  const char *custom_name = int8 ? "FbsConv2DInt8" : "FbsConv2D", *name = int8 ? "fbs.conv2d_int8" : "fbs.conv2d";
  Op op = {custom_name, name, attributes, 6 + int8, 2, 1, 5, {{0}}};
  Tensor* next = op.tensors;
  *next++ = (Tensor){"x", kTfLiteFloat32, kArenaRw, 4, {2, 7, 5, 4}};
  *next++ = (Tensor){"in_indices", kTfLiteInt32, kArenaRw, 2, {2, 4}};
  *next++ = (Tensor){"weights", weight_type, kTfLiteMmapRo, 3, {5, taps, channels}};
  if (int8) *next++ = (Tensor){"weight_scales", kTfLiteFloat32, kTfLiteMmapRo, 1, {channels}};
  *next++ = (Tensor){"bias", kTfLiteFloat32, kTfLiteMmapRo, 1, {channels}};
  *next++ = (Tensor){"gate_kernel", gate_type, kTfLiteMmapRo, 2, {5, channels}};
  *next++ = (Tensor){"gate_bias", kTfLiteFloat32, kTfLiteMmapRo, 1, {channels}};
  *next++ = (Tensor){"y", kTfLiteFloat32, kArenaRw, 4, {2, height, width, k}};
  *next++ = (Tensor){"out_indices", kTfLiteInt32, kArenaRw, 2, {2, k}};
  return op;
}

/* x[2, height, width] and y[2, y_height, width] hold `active` of `channels`. */
static Op depthwise(Attributes attributes, int weight_type, int taps, int channels, int active, int height, int width,
                    int y_height) {
  Op op = {"FbsDepthwiseConv2D", "fbs.depthwise_conv2d", attributes, 4, 1, 1, channels, {{0}}};
  op.tensors[0] = (Tensor){"x", kTfLiteFloat32, kArenaRw, 4, {2, height, width, active}};
  op.tensors[1] = (Tensor){"indices", kTfLiteInt32, kArenaRw, 2, {2, active}};
  op.tensors[2] = (Tensor){"weights", weight_type, kTfLiteMmapRo, 2, {channels, taps}};
  op.tensors[3] = (Tensor){"bias", kTfLiteFloat32, kTfLiteMmapRo, 1, {channels}};
  op.tensors[4] = (Tensor){"y", kTfLiteFloat32, kArenaRw, 4, {2, y_height, width, active}};
  return op;
}

static Op addition(Attributes attributes) {
  Op op = {"FbsAdd", "fbs.add", attributes, 3, 1, 2, 18, {{0}}};
  op.tensors[0] = (Tensor){"x0", kTfLiteFloat32, kArenaRw, 4, {2, 7, 5, 18}};
  op.tensors[1] = (Tensor){"x1", kTfLiteFloat32, kArenaRw, 4, {2, 7, 5, 4}};
  op.tensors[2] = (Tensor){"indices1", kTfLiteInt32, kArenaRw, 2, {2, 4}};
  op.tensors[3] = (Tensor){"y", kTfLiteFloat32, kArenaRw, 4, {2, 7, 5, 18}};
  return op;
}

/* The same with g in place of the gate. */
static Op gated(Op op) {
  const int int8 = strcmp(op.custom_name, "FbsConv2DInt8") == 0, outputs = op.inputs;
  op.custom_name = int8 ? "FbsGatedConv2DInt8" : "FbsGatedConv2D";
  op.composite_name = int8 ? "fbs.gated_conv2d_int8" : "fbs.gated_conv2d";
  const int channels = op.tensors[op.inputs - 1].sizes[0];
  Tensor y[] = {op.tensors[outputs], op.tensors[outputs + 1]};
  op.inputs -= 1; /* two constants fewer, and g */
  for (int t = op.inputs - 1; t > 2; --t) op.tensors[t] = op.tensors[t - 1];
  op.tensors[2] = (Tensor){"g", kTfLiteFloat32, kArenaRw, 2, {2, channels}};
  op.tensors[op.inputs] = y[0];
  op.tensors[op.inputs + 1] = y[1];
  return op;
}

enum { kOpCount = 10 };
static Op ops[kOpCount];

static void create_ops(void) {
  const Attributes conv2d = {kConv2dAttributes, sizeof kConv2dAttributes};
  const Attributes conv2d_3x3 = {k3x3Attributes, sizeof k3x3Attributes};
  const Attributes pooled = {kPooledAttributes, sizeof kPooledAttributes};
  const Attributes depthwise_3x2 = {kDepthwiseAttributes, sizeof kDepthwiseAttributes};
  const Attributes depthwise_3x3 = {kDepthwise3x3Attributes, sizeof kDepthwise3x3Attributes};
  const Attributes add = {kAddAttributes, sizeof kAddAttributes};
  ops[0] = convolution(conv2d, kTfLiteFloat32, kTfLiteFloat32, 6, 6, 4, 5, 3);
  ops[1] = convolution(conv2d_3x3, kTfLiteFloat32, kTfLiteFloat32, 9, 12, 7, 5, 8);
  ops[2] = convolution(conv2d, kTfLiteFloat16, kTfLiteFloat16, 6, 6, 4, 5, 3);
  ops[3] = convolution(conv2d, kTfLiteInt8, kTfLiteFloat16, 6, 6, 4, 5, 3);
  ops[4] = convolution(pooled, kTfLiteInt8, kTfLiteFloat32, 9, 12, 3, 2, 8);
  ops[5] = depthwise(depthwise_3x2, kTfLiteFloat16, 6, 5, 4, 7, 5, 4);
  ops[6] = depthwise(depthwise_3x3, kTfLiteFloat32, 9, 24, 18, 4, 19, 4);
  ops[7] = addition(add);
  ops[8] = gated(ops[0]);
  ops[9] = gated(ops[4]);
}

typedef struct {
  TfLiteContext context; /* first, so that a TfLiteContext* is a Host* */
  int op, tensor_count;
  TfLiteTensor tensors[kMostTensors];
  TfLiteNode node, delegate_node;
  TfLiteRegistration registration, delegate_registration;
  TfLiteStablehloCompositeParams composite;
  TfLiteIntArray *inputs, *outputs, *plan;
  uint8_t* attributes;
  size_t attributes_size;
  void* memory[kMostTensors]; /* what to free; tensors[i].data may be spoilt */
  const char *path, *method;  /* the delegate's options */
  char message[1024];
} Host;

static void die(const char* why, const Host* host) {
  fprintf(stderr, "%s: %s\n", why, host->message);
  exit(1);
}

static TfLiteIntArray* int_array(int size, const int* values) {
  TfLiteIntArray* array = __real_malloc(sizeof *array + (size_t)size * sizeof *values);
  array->size = size;
  if (size > 0) memcpy(array->data, values, (size_t)size * sizeof *values);
  return array;
}

static void report_error(TfLiteContext* context, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(((Host*)context)->message, sizeof((Host*)context)->message, format, arguments);
  va_end(arguments);
}

static TfLiteStatus get_execution_plan(TfLiteContext* context, TfLiteIntArray** plan) {
  *plan = ((Host*)context)->plan;
  return kTfLiteOk;
}

static TfLiteStatus get_node(TfLiteContext* context, int index, TfLiteNode** node, TfLiteRegistration** registration) {
  if (index != 0) return kTfLiteError;
  *node = &((Host*)context)->node;
  *registration = &((Host*)context)->registration;
  return kTfLiteOk;
}

static TfLiteStatus replace_nodes(TfLiteContext* context, TfLiteRegistration registration, const TfLiteIntArray* nodes,
                                  TfLiteDelegate* delegate) {
  Host* host = (Host*)context;
  TfLiteDelegateParams params = {.delegate = delegate, .nodes_to_replace = (TfLiteIntArray*)nodes};
  host->delegate_registration = registration;
  host->delegate_node.user_data = registration.init(context, (const char*)&params, 0);
  return kTfLiteOk;
}

static TfLiteStatus resize_tensor(TfLiteContext* context, TfLiteTensor* tensor, TfLiteIntArray* dims) {
  Host* host = (Host*)context;
  const ptrdiff_t index = tensor - host->tensors;
  if (index < 0 || index >= host->tensor_count) die("resize of no tensor", host);
  free(tensor->dims);
  tensor->dims = dims;
  size_t bytes = 4; /* outputs are float32 or int32 */
  for (int i = 0; i < dims->size; ++i) bytes *= (size_t)dims->data[i];
  if (bytes > kMostBytes) {
    report_error(context, "the host has no %zu bytes", bytes);
    return kTfLiteError;
  }
  tensor->bytes = bytes;
  free(host->memory[index]);
  tensor->data = host->memory[index] = __real_malloc(bytes);
  return kTfLiteOk;
}

static size_t size_of(int type) { return type == kTfLiteInt8 ? 1 : type == kTfLiteFloat16 ? 2 : 4; }

static void fill(Host* host, int index) {
  const TfLiteTensor* tensor = &host->tensors[index];
  void* memory = host->memory[index];
  for (size_t i = 0; i < tensor->bytes / size_of(tensor->type); ++i) {
    const int value = (int)(i * 7 + (size_t)index) % 11 - 4;
    switch (tensor->type) {
      case kTfLiteInt32: /* the indices */
        ((int32_t*)memory)[i] = (int32_t)(i * 3) % ops[host->op].channels;
        break;
      case kTfLiteInt8:
        ((int8_t*)memory)[i] = (int8_t)value;
        break;
      case kTfLiteFloat16: /* 0.25 to 1.5, and negative */
        ((uint16_t*)memory)[i] = (uint16_t)(value < 0 ? 0xb400 : 0x3400 + 256 * value);
        break;
      default:
        ((float*)memory)[i] = (float)value / 8;
    }
  }
}

static Host* create_host(int op, int composite) {
  Host* host = __real_calloc(1, sizeof *host);
  host->op = op;
  host->tensor_count = ops[op].inputs + ops[op].outputs;
  host->context.tensors_size = (size_t)host->tensor_count;
  host->context.tensors = host->tensors;
  host->context.GetExecutionPlan = get_execution_plan;
  host->context.GetNodeAndRegistration = get_node;
  host->context.ReplaceNodeSubsetsWithDelegateKernels = replace_nodes;
  host->context.ResizeTensor = resize_tensor;
  host->context.ReportError = report_error;
  host->context.recommended_num_threads = 1;
  host->path = host->method = "auto";
  for (int t = 0; t < host->tensor_count; ++t) {
    const Tensor* valid = &ops[op].tensors[t];
    TfLiteTensor* tensor = &host->tensors[t];
    tensor->name = valid->name;
    tensor->type = valid->type;
    tensor->allocation_type = valid->allocation_type;
    tensor->dims = int_array(valid->rank, valid->sizes);
    tensor->bytes = size_of(valid->type);
    for (int i = 0; i < valid->rank; ++i) tensor->bytes *= (size_t)valid->sizes[i];
    tensor->data = host->memory[t] = __real_malloc(tensor->bytes);
    fill(host, t);
  }
  const int tensors[kMostTensors] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  host->inputs = int_array(ops[op].inputs, tensors);
  host->outputs = int_array(ops[op].outputs, tensors + ops[op].inputs);
  host->plan = int_array(1, (int[]){0});
  host->attributes_size = ops[op].attributes.size;
  host->attributes = __real_malloc(host->attributes_size);
  memcpy(host->attributes, ops[op].attributes.bytes, host->attributes_size);
  host->node.inputs = host->inputs;
  host->node.outputs = host->outputs;
  host->registration.builtin_code = composite ? kTfLiteBuiltinStablehloComposite : kTfLiteBuiltinCustom;
  host->registration.custom_name = composite ? NULL : ops[op].custom_name;
  host->composite.name = ops[op].composite_name;
  host->node.builtin_data = composite ? &host->composite : NULL;
  return host;
}

static void destroy_host(Host* host) {
  for (int t = 0; t < host->tensor_count; ++t) {
    free(host->tensors[t].dims);
    free(host->memory[t]);
  }
  free(host->inputs);
  free(host->outputs);
  free(host->plan);
  free(host->attributes);
  free(host);
}

/* Prepares and runs the op three times, the second time prepared again; 0 when it was refused. */
static int run(Host* host) {
  host->node.custom_initial_data = host->attributes;
  host->node.custom_initial_data_size = (int)host->attributes_size;
  host->composite.attributes = host->attributes;
  host->composite.attributes_size = host->attributes_size;
  const char *keys[] = {"path", "method"}, *values[] = {host->path, host->method};
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(keys, values, 2, NULL);
  if (delegate == NULL || delegate->Prepare(&host->context, delegate) != kTfLiteOk) die("no delegate", host);
  const TfLiteRegistration* kernel = &host->delegate_registration;
  TfLiteStatus status = kTfLiteOk;
  for (int i = 0; i < 3 && status == kTfLiteOk; ++i) {
    if (i < 2) status = kernel->prepare(&host->context, &host->delegate_node);
    if (status == kTfLiteOk) {
      const unsigned before = allocations;
      status = kernel->invoke(&host->context, &host->delegate_node);
      if (allocations != before) die("running the op allocates memory", host);
    }
  }
  if (status != kTfLiteOk && host->message[0] == '\0') die("refused without a message", host);
  /* Either order must do. */
  if (host->attributes_size % 2) tflite_plugin_destroy_delegate(delegate);
  kernel->free(&host->context, host->delegate_node.user_data);
  if (host->attributes_size % 2 == 0) tflite_plugin_destroy_delegate(delegate);
  return status == kTfLiteOk;
}

#endif
