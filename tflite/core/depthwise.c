#include "depthwise.h"

#include <math.h>

#include "isa.h"
#include "kernels.h"
#include "packing.h"
#include "reference.h"
#include "workspace.h"

typedef struct {
  size_t weights, bias, size;
  int32_t padded; /* the active channels, rounded up to whole vectors */
} Layout;

static int32_t taps_of(const FbsDepthwiseShape* s) { return s->kernel_height * s->kernel_width; }

static Layout layout_of(const FbsDepthwiseShape* s, const FbsKernels* kernels) {
  Layout layout = {0};
  if (kernels == NULL) return layout;
  layout.padded = fbs_vectors_of(s->active, kernels->lanes) * kernels->lanes;
  const size_t row = sizeof(float) * (size_t)layout.padded;
  layout.weights = fbs_reserve(&layout.size, (size_t)taps_of(s) * row);
  layout.bias = fbs_reserve(&layout.size, row);
  return layout;
}

typedef struct {
  FbsDepthwise depthwise;
  const FbsKernels* kernels;
} Task;

static void run_share(void* context, int32_t thread, int32_t count) {
  const Task* task = context;
  const int64_t rows = task->depthwise.out_height;
  task->kernels->depthwise(&task->depthwise, fbs_share(rows, thread, count), fbs_share(rows, thread + 1, count));
}

static int indices_within(const FbsDepthwiseShape* s, const int32_t* indices) {
  for (int64_t n = 0; n < (int64_t)s->batch * s->active; n++) {
    if (indices[n] < 0 || indices[n] >= s->channels) return 0;
  }
  return 1;
}

size_t fbs_depthwise_workspace_size(const FbsDepthwiseShape* shape, FbsPath path) {
  return layout_of(shape, fbs_select_kernels(path)).size;
}

const char* fbs_depthwise_kernel_name(FbsPath path) {
  const FbsKernels* kernels = fbs_select_kernels(path);
  return kernels != NULL ? kernels->name : "reference";
}

int fbs_depthwise_run(const FbsDepthwiseShape* s, const FbsDepthwiseWeights* weights, FbsPath path, FbsThreads* threads,
                      const float* x, const int32_t* indices, float* y, void* workspace) {
  if (!indices_within(s, indices)) return -1;
  const FbsKernels* kernels = fbs_select_kernels(path);
  if (kernels == NULL) {
    fbs_reference_depthwise(s, weights, x, indices, y);
    return 0;
  }
  const Layout layout = layout_of(s, kernels);
  float* packed = (float*)((char*)workspace + layout.weights);
  float* bias = (float*)((char*)workspace + layout.bias);
  Task task = {.depthwise = {.weights = packed,
                             .bias = bias,
                             .in_height = s->in_height,
                             .in_width = s->in_width,
                             .active = s->active,
                             .padded = layout.padded,
                             .kernel_height = s->kernel_height,
                             .kernel_width = s->kernel_width,
                             .stride_height = s->stride_height,
                             .stride_width = s->stride_width,
                             .dilation_height = s->dilation_height,
                             .dilation_width = s->dilation_width,
                             .pad_top = s->pad_top,
                             .pad_left = s->pad_left,
                             .out_height = s->out_height,
                             .out_width = s->out_width,
                             .low = fbs_lowest(s->activation),
                             .high = fbs_highest(s->activation)},
               .kernels = kernels};
  for (int64_t n = 0; n < s->batch; n++) {
    const int32_t* channels = indices + n * s->active;
    kernels->pack_depthwise(weights->weights, channels, taps_of(s), s->active, layout.padded, packed);
    for (int32_t j = 0; j < layout.padded; j++) bias[j] = weights->bias[channels[j % s->active]];
    task.depthwise.x = x + n * s->in_height * s->in_width * s->active;
    task.depthwise.y = y + n * s->out_height * s->out_width * s->active;
    fbs_threads_run(threads, run_share, &task);
  }
  return 0;
}
