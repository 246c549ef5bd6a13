/* The op fbs.depthwise_conv2d. */
#include <inttypes.h>
#include <stdio.h>

#include "../core/depthwise.h"
#include "attributes.h"
#include "constants.h"
#include "op.h"
#include "window.h"

typedef struct {
  FbsWindow window;
  FbsActivation activation;
  /* Indices into the context's tensors. */
  int x, indices, y;
  FbsConstant weights, bias;
  FbsDepthwiseShape shape;
} Op;

static bool parse(void* state, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  Op* op = state;
  FbsFlexMap map;
  if (!fbs_attributes_open(&map, attributes, size, message) || !fbs_window_parse(&map, &op->window, message) ||
      !fbs_attribute_activation(&map, &op->activation, message)) {
    return false;
  }
  const int inputs = node->inputs != NULL ? node->inputs->size : 0;
  const int outputs = node->outputs != NULL ? node->outputs->size : 0;
  if (inputs != 4) return fbs_fail(message, "expected 4 inputs (x, indices, weights, bias), got %d", inputs);
  if (outputs != 1) return fbs_fail(message, "expected 1 output (y), got %d", outputs);
  op->x = node->inputs->data[0];
  op->indices = node->inputs->data[1];
  op->weights.tensor = node->inputs->data[2];
  op->bias.tensor = node->inputs->data[3];
  op->y = node->outputs->data[0];
  return true;
}

static bool check(const TfLiteContext* context, const Op* op, FbsDepthwiseShape* shape, FbsConstant* weights,
                  FbsConstant* bias, FbsMessage* message) {
  const FbsWindow* window = &op->window;
  int32_t taps;
  if (!fbs_window_taps(window, &taps, message)) return false;
  const TfLiteTensor* x = fbs_find_input(context, op->x, "x", kTfLiteFloat32, 4, message);
  if (x == NULL) return false;
  const TfLiteTensor* w =
      fbs_constant_find(context, op->weights.tensor, "weights", kFbsFloat, 2, (int32_t[]){0, taps}, weights, message);
  if (w == NULL) return false;
  const int32_t channels = w->dims->data[0], active = x->dims->data[3];
  if (fbs_constant_find(context, op->bias.tensor, "bias", kTfLiteFloat32, 1, (int32_t[]){channels}, bias, message) ==
      NULL) {
    return false;
  }
  if (active > channels) {
    return fbs_fail(message, "x must hold at most the %" PRId32 " channels of the weights, got %" PRId32, channels,
                    active);
  }
  *shape = (FbsDepthwiseShape){
      .batch = x->dims->data[0],
      .in_height = x->dims->data[1],
      .in_width = x->dims->data[2],
      .channels = channels,
      .active = active,
      .kernel_height = window->kernel_h,
      .kernel_width = window->kernel_w,
      .stride_height = window->stride_h,
      .stride_width = window->stride_w,
      .dilation_height = window->dilation_h,
      .dilation_width = window->dilation_w,
      .activation = op->activation,
  };
  if (!fbs_window_output(window, shape->in_height, shape->in_width, &shape->out_height, &shape->out_width,
                         &shape->pad_top, &shape->pad_left, message)) {
    return false;
  }
  char reason[256];
  const char* refusal = fbs_depthwise_check(shape, reason, sizeof reason);
  if (refusal != NULL) return fbs_fail(message, "%s", refusal);
  return fbs_check_indices(context, op->indices, "indices", "x", shape->batch, active, channels, message) &&
         fbs_check_output(context, op->y, "y", kTfLiteFloat32, (int[]){op->x, op->indices}, 2, message);
}

static bool prepare(void* state, TfLiteContext* context, const FbsSession* session, FbsOpDescription* description,
                    FbsMessage* message) {
  Op* op = state;
  const FbsPath path = session->options.conv.path;
  FbsConstant weights, bias;
  if (!check(context, op, &op->shape, &weights, &bias, message) ||
      !fbs_constant_replace(&op->weights, &weights, message) || !fbs_constant_replace(&op->bias, &bias, message)) {
    return false;
  }
  const FbsDepthwiseShape* s = &op->shape;
  snprintf(description->kernel, sizeof description->kernel, "depthwise_%s", fbs_depthwise_kernel_name(path));
  snprintf(description->shape, sizeof description->shape,
           "%dx%dx%dx%d/%d -> %dx%dx%d/%d, %dx%d stride %dx%d dilation %dx%d", s->batch, s->in_height, s->in_width,
           s->active, s->channels, s->out_height, s->out_width, s->active, s->channels, s->kernel_height,
           s->kernel_width, s->stride_height, s->stride_width, s->dilation_height, s->dilation_width);
  const int64_t outputs = (int64_t)s->batch * s->out_height * s->out_width * s->active;
  description->macs = outputs * s->kernel_height * s->kernel_width;
  description->workspace_bytes = fbs_depthwise_workspace_size(s, path);
  description->plan_bytes = fbs_constant_copy_bytes(&op->weights);
  const int32_t y[] = {s->batch, s->out_height, s->out_width, s->active};
  return fbs_resize(context, op->y, "y", 4, y, message);
}

static bool invoke(const void* state, const TfLiteContext* context, const FbsSession* session, FbsMessage* message) {
  const Op* op = state;
  const FbsDepthwiseShape* s = &op->shape;
  const int64_t images = (int64_t)s->batch * s->active;
  bool usable = fbs_constant_stayed(&op->weights, context) && fbs_constant_stayed(&op->bias, context);
  const FbsMemory inputs[] = {fbs_memory_of(context, op->x, images * s->in_height * s->in_width, &usable),
                              fbs_memory_of(context, op->indices, images, &usable)};
  const FbsMemory y = fbs_memory_of(context, op->y, images * s->out_height * s->out_width, &usable);
  if (!fbs_check_memory(usable, &y, 1, inputs, 2, message)) return false;
  const FbsDepthwiseWeights weights = {fbs_constant_data(&op->weights), fbs_constant_data(&op->bias)};
  if (fbs_depthwise_run(s, &weights, session->options.conv.path, session->threads, inputs[0].data, inputs[1].data,
                        y.data, session->workspace) != 0) {
    return fbs_fail(message, "indices holds a value outside [0, %d)", (int)s->channels);
  }
  return true;
}

static void destroy(void* op) { fbs_constant_release(&((Op*)op)->weights); }

const FbsOpKind fbs_depthwise_conv2d_op = {
    .custom_name = "FbsDepthwiseConv2D",
    .composite_name = "fbs.depthwise_conv2d",
    .size = sizeof(Op),
    .parse = parse,
    .prepare = prepare,
    .invoke = invoke,
    .destroy = destroy,
};
