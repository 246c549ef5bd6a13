#include "convolution.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "attributes.h"

bool fbs_convolution_parse(FbsConvolution* op, const FbsConvolutionKind* kind, const TfLiteNode* node,
                           const void* attributes, size_t size, FbsMessage* message) {
  op->kind = kind;
  FbsFlexMap map;
  if (!fbs_attributes_open(&map, attributes, size, message) ||
      !fbs_attribute_int(&map, "sparse_in", 0, 1, &op->sparse_in, message) ||
      !fbs_attribute_int(&map, "k", 1, INT32_MAX, &op->k, message) ||
      !fbs_attribute_int(&map, "group_size", 1, INT32_MAX, &op->group_size, message) ||
      !fbs_window_parse(&map, &op->window, message) || !fbs_attribute_activation(&map, &op->activation, message)) {
    return false;
  }
  int32_t pool = 1; /* as in older files, which have no such attribute */
  if (kind->pools && fbs_attribute_exists(&map, "pool") && !fbs_attribute_int(&map, "pool", 1, 2, &pool, message)) {
    return false;
  }
  op->max_pool = pool == 2;
  const int expected = 1 + op->sparse_in + kind->gated + kind->constant_count;
  const int inputs = node->inputs != NULL ? node->inputs->size : 0;
  const int outputs = node->outputs != NULL ? node->outputs->size : 0;
  if (inputs != expected) {
    return fbs_fail(message, "expected %d inputs (x, %s%s%s) with sparse_in %d, got %d", expected,
                    op->sparse_in ? "in_indices, " : "", kind->gated ? "g, " : "", kind->operands, (int)op->sparse_in,
                    inputs);
  }
  if (outputs != 1 && outputs != 2) {
    return fbs_fail(message, "expected 1 output (y) or 2 (y, out_indices), got %d", outputs);
  }
  const int* operand = node->inputs->data;
  op->x = *operand++;
  op->in_indices = op->sparse_in ? *operand++ : kFbsNoTensor;
  op->g = kind->gated ? *operand++ : kFbsNoTensor;
  for (int i = 0; i < kind->constant_count; ++i) op->constants[i].tensor = *operand++;
  op->y = node->outputs->data[0];
  op->out_indices = outputs == 2 ? node->outputs->data[1] : kFbsNoTensor;
  return true;
}

/* Finds the constants, and the channels that they are for. */
static bool find_constants(const TfLiteContext* context, const FbsConvolution* op, FbsConstant* constants,
                           int32_t* in_channels, int32_t* out_channels, FbsMessage* message) {
  int32_t taps;
  if (!fbs_window_taps(&op->window, &taps, message)) return false;
  for (int i = 0; i < op->kind->constant_count; ++i) {
    const FbsConstantKind* kind = &op->kind->constants[i];
    const int32_t sizes[][3] = {{*out_channels}, {*in_channels, *out_channels}, {0, taps, 0}}; /* by rank */
    const TfLiteTensor* tensor = fbs_constant_find(context, op->constants[i].tensor, kind->name, kind->type, kind->rank,
                                                   sizes[kind->rank - 1], &constants[i], message);
    if (tensor == NULL) return false;
    if (i == 0) {
      *in_channels = tensor->dims->data[0];
      *out_channels = tensor->dims->data[2];
    }
  }
  return true;
}

static bool check_in_indices(const TfLiteContext* context, const FbsConvolution* op, const FbsConv2dShape* shape,
                             FbsMessage* message) {
  if (!op->sparse_in) {
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

static bool check_g(const TfLiteContext* context, const FbsConvolution* op, const FbsConv2dShape* shape,
                    FbsMessage* message) {
  if (!op->kind->gated) return true;
  const TfLiteTensor* g = fbs_find_input(context, op->g, "g", kTfLiteFloat32, 2, message);
  if (g == NULL) return false;
  return (g->dims->data[0] == shape->batch && g->dims->data[1] == shape->out_channels) ||
         fbs_fail(message, "g must be [%" PRId32 ", %" PRId32 "], a number for each filter and example, got %s",
                  shape->batch, shape->out_channels, fbs_dims_text(g->dims).text);
}

static bool check_outputs(const TfLiteContext* context, const FbsConvolution* op, const FbsConv2dShape* shape,
                          FbsMessage* message) {
  if (op->k > shape->out_channels) {
    return fbs_fail(message, "k must be in [1, %" PRId32 "], the channels of the weights, got %" PRId32,
                    shape->out_channels, op->k);
  }
  const bool has_out_indices = op->out_indices != kFbsNoTensor;
  if (has_out_indices != (op->k < shape->out_channels)) {
    return fbs_fail(message, "expected %s with k %" PRId32 " of %" PRId32 " channels, got %s",
                    has_out_indices ? "1 output (y)" : "2 outputs (y, out_indices)", op->k, shape->out_channels,
                    has_out_indices ? "2" : "1");
  }
  const int y_others[] = {op->x, op->in_indices, op->g, op->out_indices};
  const int index_others[] = {op->x, op->in_indices, op->g, op->y};
  return fbs_check_output(context, op->y, "y", kTfLiteFloat32, y_others, 4, message) &&
         (!has_out_indices ||
          fbs_check_output(context, op->out_indices, "out_indices", kTfLiteInt32, index_others, 4, message));
}

static bool check(const TfLiteContext* context, const FbsConvolution* op, FbsConv2dShape* shape, FbsConstant* constants,
                  FbsMessage* message) {
  const FbsWindow* window = &op->window;
  const TfLiteTensor* x = fbs_find_input(context, op->x, "x", kTfLiteFloat32, 4, message);
  int32_t in_channels = 0, out_channels = 0;
  if (x == NULL || !find_constants(context, op, constants, &in_channels, &out_channels, message)) return false;
  *shape = (FbsConv2dShape){
      .batch = x->dims->data[0],
      .in_height = x->dims->data[1],
      .in_width = x->dims->data[2],
      .in_channels = in_channels,
      .in_active = x->dims->data[3],
      .out_channels = out_channels,
      .out_active = op->k,
      .group_size = op->group_size,
      .kernel_height = window->kernel_h,
      .kernel_width = window->kernel_w,
      .stride_height = window->stride_h,
      .stride_width = window->stride_w,
      .dilation_height = window->dilation_h,
      .dilation_width = window->dilation_w,
      .activation = op->activation,
      .max_pool = op->max_pool,
  };
  return fbs_window_output(window, shape->in_height, shape->in_width, &shape->out_height, &shape->out_width,
                           &shape->pad_top, &shape->pad_left, message) &&
         check_in_indices(context, op, shape, message) && check_g(context, op, shape, message) &&
         check_outputs(context, op, shape, message);
}

static void destroy_plan(FbsConvolution* op) {
  fbs_conv2d_destroy(op->plan);
  op->plan = NULL;
}

static_assert(sizeof(FbsConv2dShape) == 20 * sizeof(int32_t), "compared with memcmp: must have no padding");

/* Whether the plan is still that of the shape and the constants. */
static bool plan_serves(const FbsConvolution* op, const FbsConv2dShape* shape, const FbsConstant* constants) {
  bool equal = op->plan != NULL && memcmp(shape, &op->shape, sizeof *shape) == 0;
  for (int i = 0; i < op->kind->constant_count; ++i) {
    equal = equal && fbs_constant_equal(&constants[i], &op->constants[i]);
  }
  return equal;
}

static bool make_plan(FbsConvolution* op, const FbsConv2dShape* shape, const FbsConstant* constants,
                      const FbsConv2dOptions* options, FbsMessage* message) {
  if (plan_serves(op, shape, constants)) return true;
  destroy_plan(op);
  op->shape = *shape;
  const void* data[kFbsMaxConstants] = {NULL};
  for (int i = 0; i < op->kind->constant_count; ++i) {
    if (!fbs_constant_replace(&op->constants[i], &constants[i], message)) return false;
    data[i] = fbs_constant_data(&op->constants[i]);
  }
  char reason[256];
  const char* refusal = op->kind->check(shape, data, reason, sizeof reason);
  if (refusal != NULL) return fbs_fail(message, "%s", refusal);
  op->plan = op->kind->create(shape, data, options);
  return op->plan != NULL || fbs_fail(message, "out of memory for the convolution's plan");
}

static int64_t macs(const FbsConv2dShape* s, bool gated) {
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  const int64_t convolution = pixels * s->kernel_height * s->kernel_width * s->in_active * s->out_active;
  return s->batch * (convolution + (gated ? 0 : (int64_t)s->in_active * s->out_channels));
}

bool fbs_convolution_prepare(void* state, TfLiteContext* context, const FbsSession* session,
                             FbsOpDescription* description, FbsMessage* message) {
  FbsConvolution* op = state;
  FbsConv2dShape s;
  FbsConstant constants[kFbsMaxConstants];
  if (!check(context, op, &s, constants, message) || !make_plan(op, &s, constants, &session->options.conv, message)) {
    return false;
  }
  snprintf(description->kernel, sizeof description->kernel, "%s", fbs_conv2d_kernel_name(op->plan));
  const int32_t height = fbs_y_height(&s), width = fbs_y_width(&s);
  snprintf(description->shape, sizeof description->shape,
           "%dx%dx%dx%d/%d -> %dx%dx%d/%d, %dx%d stride %dx%d dilation %dx%d%s", s.batch, s.in_height, s.in_width,
           s.in_active, s.in_channels, height, width, s.out_active, s.out_channels, s.kernel_height, s.kernel_width,
           s.stride_height, s.stride_width, s.dilation_height, s.dilation_width, s.max_pool ? ", max pool 2x2" : "");
  description->macs = macs(&s, op->kind->gated);
  description->workspace_bytes = fbs_conv2d_workspace_size(op->plan, fbs_threads_count(session->threads));
  description->plan_bytes = fbs_conv2d_plan_size(op->plan);
  for (int i = 0; i < op->kind->constant_count; ++i) {
    description->plan_bytes += fbs_constant_copy_bytes(&op->constants[i]);
  }
  const int32_t y[] = {s.batch, height, width, s.out_active}, out_indices[] = {s.batch, s.out_active};
  return fbs_resize(context, op->y, "y", 4, y, message) &&
         (op->out_indices == kFbsNoTensor ||
          fbs_resize(context, op->out_indices, "out_indices", 2, out_indices, message));
}

bool fbs_convolution_invoke(const void* state, const TfLiteContext* context, const FbsSession* session,
                            FbsMessage* message) {
  const FbsConvolution* op = state;
  const FbsConv2dShape* s = &op->shape;
  const int64_t batch = s->batch;
  bool usable = true;
  for (int i = 0; i < op->kind->constant_count; ++i) {
    usable = usable && fbs_constant_stayed(&op->constants[i], context);
  }
  const FbsMemory inputs[] = {fbs_memory_of(context, op->x, batch * s->in_height * s->in_width * s->in_active, &usable),
                              fbs_memory_of(context, op->in_indices, batch * s->in_active, &usable),
                              fbs_memory_of(context, op->g, batch * s->out_channels, &usable)};
  const FbsMemory outputs[] = {
      fbs_memory_of(context, op->y, batch * fbs_y_height(s) * fbs_y_width(s) * s->out_active, &usable),
      fbs_memory_of(context, op->out_indices, batch * s->out_active, &usable)};
  if (!fbs_check_memory(usable, outputs, 2, inputs, 3, message)) return false;
  if (fbs_conv2d_run(op->plan, session->threads, inputs[0].data, inputs[1].data, inputs[2].data, outputs[0].data,
                     outputs[1].data, session->workspace) != 0) {
    return fbs_fail(message, "in_indices holds a value outside [0, %d)", (int)s->in_channels);
  }
  return true;
}

void fbs_convolution_destroy(void* state) {
  FbsConvolution* op = state;
  destroy_plan(op);
  for (int i = 0; i < kFbsMaxConstants; ++i) fbs_constant_release(&op->constants[i]);
}
