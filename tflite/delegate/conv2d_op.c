/* The op fbs.conv2d. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../core/conv2d.h"
#include "attributes.h"
#include "op.h"
#include "tensors.h"
#include "window.h"

typedef struct {
  int32_t sparse_in; /* 1: x holds only the channels that in_indices names */
  int32_t k;
  int32_t group_size;
  FbsWindow window;
  FbsActivation activation;
} Attributes;

typedef struct {
  Attributes attributes;
  /* Indices into the context's tensors; in_indices and out_indices may be kFbsNoTensor. */
  int x, in_indices, weights, bias, gate_kernel, gate_bias;
  int y, out_indices;
  FbsConv2dShape shape;
  FbsConv2dWeights constants;
  FbsConv2d* plan;
} Op;

static const struct {
  const char* name;
  size_t offset;
  int32_t minimum, maximum;
} kIntegers[] = {
    {"sparse_in", offsetof(Attributes, sparse_in), 0, 1},
    {"k", offsetof(Attributes, k), 1, INT32_MAX},
    {"group_size", offsetof(Attributes, group_size), 1, INT32_MAX},
};

static bool parse_attributes(const void* data, size_t size, Attributes* attributes, FbsMessage* message) {
  FbsFlexMap map;
  if (!fbs_attributes_open(&map, data, size, message)) return false;
  for (size_t i = 0; i < sizeof kIntegers / sizeof *kIntegers; ++i) {
    int32_t* value = (int32_t*)((char*)attributes + kIntegers[i].offset);
    if (!fbs_attribute_int(&map, kIntegers[i].name, kIntegers[i].minimum, kIntegers[i].maximum, value, message)) {
      return false;
    }
  }
  return fbs_window_parse(&map, &attributes->window, message) &&
         fbs_attribute_activation(&map, &attributes->activation, message);
}

static bool parse(void* state, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  Op* op = state;
  if (!parse_attributes(attributes, size, &op->attributes, message)) return false;
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

static bool check_in_indices(const TfLiteContext* context, const Op* op, const FbsConv2dShape* shape,
                             FbsMessage* message) {
  if (!op->attributes.sparse_in) {
    if (shape->in_active == shape->in_channels) return true;
    return fbs_fail(message, "x must hold all %" PRId32 " channels of the weights with sparse_in 0, got %" PRId32,
                    shape->in_channels, shape->in_active);
  }
  if (shape->in_active > shape->in_channels) {
    return fbs_fail(message, "x must hold at most the %" PRId32 " channels of the weights, got %" PRId32,
                    shape->in_channels, shape->in_active);
  }
  return fbs_check_indices(context, op->in_indices, "in_indices", "x", shape->batch, shape->in_active,
                           shape->in_channels, message);
}

static bool check(const TfLiteContext* context, const Op* op, FbsConv2dShape* shape, FbsConv2dWeights* weights,
                  FbsMessage* message) {
  const Attributes* a = &op->attributes;
  const FbsWindow* window = &a->window;
  int32_t taps;
  if (!fbs_window_taps(window, &taps, message)) return false;
  const TfLiteTensor* x = fbs_find_input(context, op->x, "x", kTfLiteFloat32, 4, message);
  if (x == NULL) return false;

  const TfLiteTensor* w = fbs_find_constant(context, op->weights, "weights", 3, (int32_t[]){0, taps, 0}, message);
  if (w == NULL) return false;
  const int32_t in_channels = w->dims->data[0], out_channels = w->dims->data[2];
  const TfLiteTensor* bias = fbs_find_constant(context, op->bias, "bias", 1, (int32_t[]){out_channels}, message);
  if (bias == NULL) return false;
  const int32_t gate_sizes[] = {in_channels, out_channels};
  const TfLiteTensor* gate_kernel = fbs_find_constant(context, op->gate_kernel, "gate_kernel", 2, gate_sizes, message);
  if (gate_kernel == NULL) return false;
  const TfLiteTensor* gate_bias =
      fbs_find_constant(context, op->gate_bias, "gate_bias", 1, (int32_t[]){out_channels}, message);
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
      .kernel_height = window->kernel_h,
      .kernel_width = window->kernel_w,
      .stride_height = window->stride_h,
      .stride_width = window->stride_w,
      .dilation_height = window->dilation_h,
      .dilation_width = window->dilation_w,
      .activation = a->activation,
  };
  if (!fbs_window_output(window, shape->in_height, shape->in_width, &shape->out_height, &shape->out_width,
                         &shape->pad_top, &shape->pad_left, message)) {
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
  const int y_others[] = {op->x, op->in_indices, op->out_indices}, index_others[] = {op->x, op->in_indices, op->y};
  return check_in_indices(context, op, shape, message) &&
         fbs_check_output(context, op->y, "y", kTfLiteFloat32, y_others, 3, message) &&
         (!has_out_indices ||
          fbs_check_output(context, op->out_indices, "out_indices", kTfLiteInt32, index_others, 3, message));
}

static_assert(sizeof(FbsConv2dShape) == 19 * sizeof(int32_t), "compared with memcmp: must have no padding");

/* Keeps the plan when nothing that it depends on has changed. */
static bool make_plan(Op* op, const FbsConv2dShape* shape, const FbsConv2dWeights* constants,
                      const FbsConv2dOptions* options, FbsMessage* message) {
  if (op->plan != NULL && memcmp(shape, &op->shape, sizeof *shape) == 0 &&
      memcmp(constants, &op->constants, sizeof *constants) == 0) {
    return true;
  }
  fbs_conv2d_destroy(op->plan);
  op->plan = NULL;
  char reason[256];
  const char* refusal = fbs_conv2d_check(shape, reason, sizeof reason);
  if (refusal != NULL) return fbs_fail(message, "%s", refusal);
  op->plan = fbs_conv2d_create(shape, constants, options);
  if (op->plan == NULL) return fbs_fail(message, "out of memory for the convolution's plan");
  op->shape = *shape;
  op->constants = *constants;
  return true;
}

static int64_t macs(const FbsConv2dShape* s) {
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  const int64_t convolution = pixels * s->kernel_height * s->kernel_width * s->in_active * s->out_active;
  return s->batch * (convolution + (int64_t)s->in_active * s->out_channels);
}

static bool prepare(void* state, TfLiteContext* context, const FbsSession* session, FbsOpDescription* description,
                    FbsMessage* message) {
  Op* op = state;
  FbsConv2dShape s;
  FbsConv2dWeights constants;
  if (!check(context, op, &s, &constants, message) || !make_plan(op, &s, &constants, &session->options.conv, message)) {
    return false;
  }
  snprintf(description->kernel, sizeof description->kernel, "%s", fbs_conv2d_kernel_name(op->plan));
  snprintf(description->shape, sizeof description->shape,
           "%dx%dx%dx%d/%d -> %dx%dx%d/%d, %dx%d stride %dx%d dilation %dx%d", s.batch, s.in_height, s.in_width,
           s.in_active, s.in_channels, s.out_height, s.out_width, s.out_active, s.out_channels, s.kernel_height,
           s.kernel_width, s.stride_height, s.stride_width, s.dilation_height, s.dilation_width);
  description->macs = macs(&s);
  description->workspace_bytes = fbs_conv2d_workspace_size(op->plan, fbs_threads_count(session->threads));
  description->plan_bytes = fbs_conv2d_plan_size(op->plan);
  const int32_t y[] = {s.batch, s.out_height, s.out_width, s.out_active}, out_indices[] = {s.batch, s.out_active};
  return fbs_resize(context, op->y, "y", 4, y, message) &&
         (op->out_indices == kFbsNoTensor ||
          fbs_resize(context, op->out_indices, "out_indices", 2, out_indices, message));
}

/* Whether the plan's constants are where they were: an op that computes one before the first run may have moved it. */
static bool constants_stayed(const TfLiteContext* context, const Op* op) {
  const FbsConv2dShape* s = &op->shape;
  const FbsConv2dWeights* w = &op->constants;
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width, gate = (int64_t)s->in_channels * s->out_channels;
  bool usable = true;
  return fbs_memory_of(context, op->weights, taps * gate, &usable).data == w->weights &&
         fbs_memory_of(context, op->bias, s->out_channels, &usable).data == w->bias &&
         fbs_memory_of(context, op->gate_kernel, gate, &usable).data == w->gate_kernel &&
         fbs_memory_of(context, op->gate_bias, s->out_channels, &usable).data == w->gate_bias && usable;
}

static bool invoke(const void* state, const TfLiteContext* context, const FbsSession* session, FbsMessage* message) {
  const Op* op = state;
  const FbsConv2dShape* s = &op->shape;
  const int64_t batch = s->batch;
  bool usable = constants_stayed(context, op);
  const FbsMemory inputs[] = {fbs_memory_of(context, op->x, batch * s->in_height * s->in_width * s->in_active, &usable),
                              fbs_memory_of(context, op->in_indices, batch * s->in_active, &usable)};
  const FbsMemory outputs[] = {
      fbs_memory_of(context, op->y, batch * s->out_height * s->out_width * s->out_active, &usable),
      fbs_memory_of(context, op->out_indices, batch * s->out_active, &usable)};
  if (!fbs_check_memory(usable, outputs, 2, inputs, 2, message)) return false;
  if (fbs_conv2d_run(op->plan, session->threads, inputs[0].data, inputs[1].data, outputs[0].data, outputs[1].data,
                     session->workspace) != 0) {
    return fbs_fail(message, "in_indices holds a value outside [0, %d)", (int)s->in_channels);
  }
  return true;
}

static void destroy(void* state) { fbs_conv2d_destroy(((Op*)state)->plan); }

const FbsOpKind fbs_conv2d_op = {
    .custom_name = "FbsConv2D",
    .composite_name = "fbs.conv2d",
    .size = sizeof(Op),
    .parse = parse,
    .prepare = prepare,
    .invoke = invoke,
    .destroy = destroy,
};
