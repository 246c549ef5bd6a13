#include "kernel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op.h"
#include "profile.h"

typedef struct {
  FbsSession* session;
  FbsOp op;
  bool parsed;
  FbsMessage message; /* why `parsed` is false */
  char name[128];     /* the output tensor's, which is the Keras layer's or close to it */
  char shape[128];    /* for people */
  FbsConv2dShape conv;
  FbsConv2dWeights weights;
  FbsConv2d* plan;
  FbsProfile* profile; /* NULL unless asked for */
} FbsKernel;

static TfLiteStatus report(TfLiteContext* context, const FbsKernel* kernel, const FbsMessage* message) {
  context->ReportError(context, "FbsConv2D '%s': %s. ", kernel->name, message->text);
  return kTfLiteError;
}

static void set_name(const TfLiteContext* context, FbsKernel* kernel, const TfLiteNode* node) {
  const TfLiteIntArray* outputs = node->outputs;
  const char* name = NULL;
  if (outputs != NULL && outputs->size > 0 && outputs->data[0] >= 0 &&
      (size_t)outputs->data[0] < context->tensors_size) {
    name = context->tensors[outputs->data[0]].name;
  }
  snprintf(kernel->name, sizeof kernel->name, "%.120s", name != NULL ? name : "?");
}

/* Errors found here wait for prepare: the runtime ignores what init returns. */
static void* kernel_init(TfLiteContext* context, const char* buffer, size_t length) {
  (void)length;
  const TfLiteDelegateParams* params = (const TfLiteDelegateParams*)buffer;
  const FbsDelegate* delegate = params->delegate->data_;
  FbsKernel* kernel = calloc(1, sizeof *kernel);
  if (kernel == NULL) return NULL;
  kernel->session = fbs_session_retain(delegate->session);
  if (*kernel->session->options.profile != '\0') kernel->profile = calloc(1, sizeof *kernel->profile);

  TfLiteNode* node;
  TfLiteRegistration* registration;
  const void* attributes = NULL;
  size_t size = 0;
  if (params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk ||
      !fbs_op_match(node, registration, &attributes, &size)) {
    fbs_fail(&kernel->message, "the runtime replaced other nodes than asked for");
    return kernel;
  }
  set_name(context, kernel, node);
  kernel->parsed = fbs_op_parse(node, attributes, size, &kernel->op, &kernel->message);
  return kernel;
}

static int64_t macs(const FbsConv2dShape* s) {
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  const int64_t convolution = pixels * s->kernel_height * s->kernel_width * s->in_active * s->out_active;
  return s->batch * (convolution + (int64_t)s->in_active * s->out_channels);
}

/* Ends the plan, and writes its row of the profile if it ever ran. */
static void destroy_plan(FbsKernel* kernel) {
  if (kernel->plan == NULL) return;
  if (kernel->profile != NULL && kernel->profile->runs > 0) {
    const int32_t threads = fbs_threads_count(kernel->session->threads);
    const FbsProfileOp op = {.op = kernel->name,
                             .kernel = fbs_conv2d_kernel_name(kernel->plan),
                             .shape = kernel->shape,
                             .macs = macs(&kernel->conv),
                             .workspace_bytes = fbs_conv2d_workspace_size(kernel->plan, threads),
                             .plan_bytes = fbs_conv2d_plan_size(kernel->plan)};
    fbs_profile_write(kernel->profile, kernel->session->options.profile, &op);
  }
  fbs_conv2d_destroy(kernel->plan);
  kernel->plan = NULL;
}

static void kernel_free(TfLiteContext* context, void* buffer) {
  (void)context;
  FbsKernel* kernel = buffer;
  if (kernel == NULL) return;
  destroy_plan(kernel);
  free(kernel->profile);
  fbs_session_release(kernel->session);
  free(kernel);
}

static_assert(sizeof(FbsConv2dShape) == 19 * sizeof(int32_t), "compared with memcmp: must have no padding");

/* Keeps the plan when nothing that it depends on has changed. */
static bool make_plan(FbsKernel* kernel, const FbsConv2dShape* conv, const FbsConv2dWeights* weights,
                      FbsMessage* message) {
  if (kernel->plan != NULL) {
    if (memcmp(conv, &kernel->conv, sizeof *conv) == 0 && memcmp(weights, &kernel->weights, sizeof *weights) == 0)
      return true;
    destroy_plan(kernel);
  }
  char reason[256];
  const char* refusal = fbs_conv2d_check(conv, reason, sizeof reason);
  if (refusal != NULL) return fbs_fail(message, "%s", refusal);

  const FbsSession* session = kernel->session;
  kernel->plan = fbs_conv2d_create(conv, weights, &session->options.conv);
  if (kernel->plan == NULL) return fbs_fail(message, "out of memory for the convolution's plan");
  kernel->conv = *conv;
  kernel->weights = *weights;
  snprintf(kernel->shape, sizeof kernel->shape, "%dx%dx%dx%d/%d -> %dx%dx%d/%d, %dx%d stride %dx%d dilation %dx%d",
           conv->batch, conv->in_height, conv->in_width, conv->in_active, conv->in_channels, conv->out_height,
           conv->out_width, conv->out_active, conv->out_channels, conv->kernel_height, conv->kernel_width,
           conv->stride_height, conv->stride_width, conv->dilation_height, conv->dilation_width);
  if (session->options.verbose) {
    char line[512];
    snprintf(line, sizeof line, "FBS: %s: %s, %s, %d thread(s), %zu bytes of workspace\n", kernel->name, kernel->shape,
             fbs_conv2d_kernel_name(kernel->plan), (int)fbs_threads_count(session->threads),
             fbs_conv2d_workspace_size(kernel->plan, fbs_threads_count(session->threads)));
    fbs_print(line);
  }
  return true;
}

static TfLiteStatus resize(TfLiteContext* context, int index, int rank, const int32_t* sizes) {
  TfLiteIntArray* dims = malloc(sizeof *dims + (size_t)rank * sizeof *dims->data);
  if (dims == NULL) return kTfLiteError;
  dims->size = rank;
  memcpy(dims->data, sizes, (size_t)rank * sizeof *sizes);
  return context->ResizeTensor(context, &context->tensors[index], dims);
}

static TfLiteStatus kernel_prepare(TfLiteContext* context, TfLiteNode* node) {
  FbsKernel* kernel = node->user_data;
  if (kernel == NULL) {
    context->ReportError(context, "FbsConv2D: out of memory. ");
    return kTfLiteError;
  }
  if (!kernel->parsed) return report(context, kernel, &kernel->message);

  FbsMessage message;
  FbsConv2dShape conv;
  FbsConv2dWeights weights;
  if (!fbs_op_check(context, &kernel->op, &conv, &weights, &message) ||
      !fbs_session_start(kernel->session, context->recommended_num_threads, &message) ||
      !make_plan(kernel, &conv, &weights, &message) ||
      !fbs_session_reserve(kernel->session,
                           fbs_conv2d_workspace_size(kernel->plan, fbs_threads_count(kernel->session->threads)),
                           &message)) {
    return report(context, kernel, &message);
  }
  const int32_t y[] = {conv.batch, conv.out_height, conv.out_width, conv.out_active};
  const TfLiteStatus status = resize(context, kernel->op.y, 4, y);
  if (status != kTfLiteOk || kernel->op.out_indices == kFbsNoTensor) return status;
  return resize(context, kernel->op.out_indices, 2, (int32_t[]){conv.batch, conv.out_active});
}

typedef struct {
  void* data;
  size_t bytes;
} Memory;

/* The memory of a tensor of 4-byte elements, nothing for an absent one. Clears `*usable` when it is not what Prepare
 * saw: TFLite lets several ops write, and so resize, one tensor, and then the last one prepared decides. */
static Memory memory_of(const TfLiteContext* context, int index, int64_t elements, bool* usable) {
  if (index == kFbsNoTensor) return (Memory){NULL, 0};
  const TfLiteTensor* tensor = &context->tensors[index];
  if (tensor->data == NULL || (uintptr_t)tensor->data % 4 != 0 || tensor->bytes != (size_t)elements * 4) {
    *usable = false;
  }
  return (Memory){tensor->data, tensor->bytes};
}

static bool overlap(Memory a, Memory b) {
  const uintptr_t a_begin = (uintptr_t)a.data, b_begin = (uintptr_t)b.data;
  return a_begin < b_begin + b.bytes && b_begin < a_begin + a.bytes;
}

/* Whether the plan's constants are where they were: an op that computes one before the first run may have moved it. */
static bool constants_stayed(const TfLiteContext* context, const FbsKernel* kernel) {
  const FbsOp* op = &kernel->op;
  const FbsConv2dShape* s = &kernel->conv;
  const FbsConv2dWeights* w = &kernel->weights;
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width, gate = (int64_t)s->in_channels * s->out_channels;
  bool usable = true;
  return memory_of(context, op->weights, taps * gate, &usable).data == w->weights &&
         memory_of(context, op->bias, s->out_channels, &usable).data == w->bias &&
         memory_of(context, op->gate_kernel, gate, &usable).data == w->gate_kernel &&
         memory_of(context, op->gate_bias, s->out_channels, &usable).data == w->gate_bias && usable;
}

static TfLiteStatus kernel_invoke(TfLiteContext* context, TfLiteNode* node) {
  FbsKernel* kernel = node->user_data;
  const FbsOp* op = &kernel->op;
  const FbsConv2dShape* s = &kernel->conv;
  const int64_t batch = s->batch;
  FbsMessage message;
  bool usable = constants_stayed(context, kernel);
  const Memory x = memory_of(context, op->x, batch * s->in_height * s->in_width * s->in_active, &usable);
  const Memory in_indices = memory_of(context, op->in_indices, batch * s->in_active, &usable);
  const Memory y = memory_of(context, op->y, batch * s->out_height * s->out_width * s->out_active, &usable);
  const Memory out_indices = memory_of(context, op->out_indices, batch * s->out_active, &usable);
  if (!usable) {
    fbs_fail(&message,
             "a tensor has no memory, none aligned to 4 bytes, or another size or place than when it was prepared; it "
             "must be the output of one op only");
    return report(context, kernel, &message);
  }
  /* TFLite plans a tensor's memory up to its last reader, and gives it to others when an op writes it after that. */
  if (overlap(y, x) || overlap(y, in_indices) || overlap(y, out_indices) || overlap(out_indices, x) ||
      overlap(out_indices, in_indices)) {
    fbs_fail(
        &message,
        "y and out_indices must not share memory with another operand; a tensor must be the output of one op only");
    return report(context, kernel, &message);
  }

  const int64_t start = kernel->profile != NULL ? fbs_profile_now() : 0;
  const FbsSession* session = kernel->session;
  if (fbs_conv2d_run(kernel->plan, session->threads, x.data, in_indices.data, y.data, out_indices.data,
                     session->workspace) != 0) {
    fbs_fail(&message, "in_indices holds a value outside [0, %d)", (int)kernel->conv.in_channels);
    return report(context, kernel, &message);
  }
  if (kernel->profile != NULL) fbs_profile_add(kernel->profile, fbs_profile_now() - start);
  return kTfLiteOk;
}

/* What benchmark_model shows beside the node. */
static const char* kernel_profiling_string(const TfLiteContext* context, const TfLiteNode* node) {
  (void)context;
  const FbsKernel* kernel = node->user_data;
  return kernel != NULL && kernel->plan != NULL ? fbs_conv2d_kernel_name(kernel->plan) : NULL;
}

TfLiteRegistration fbs_kernel_registration(void) {
  return (TfLiteRegistration){
      .init = kernel_init,
      .free = kernel_free,
      .prepare = kernel_prepare,
      .invoke = kernel_invoke,
      .profiling_string = kernel_profiling_string,
      .builtin_code = kTfLiteBuiltinDelegate,
      .custom_name = "FbsDelegate",
      .version = 1,
  };
}
