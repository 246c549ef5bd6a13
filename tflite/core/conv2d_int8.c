#include "conv2d_int8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gate.h"
#include "gemm_int8.h"
#include "quantisation.h"
#include "reference.h"
#include "select.h"
#include "workspace.h"

typedef struct {
  size_t g, winners, scratch, size;
} Layout;

struct FbsConv2dInt8 {
  FbsConv2dShape shape;
  FbsConv2dInt8Weights weights;
  const FbsKernels* gate_kernels; /* NULL: the reference */
  FbsGemmInt8* gemm;
  char name[32];
};

static Layout layout_of(const FbsConv2dInt8* plan, int32_t threads) {
  Layout layout = {0};
  if (plan->gate_kernels == NULL) {
    layout.scratch = fbs_reserve(&layout.size, fbs_reference_workspace_size(&plan->shape));
    return layout;
  }
  layout.g = fbs_reserve(&layout.size, sizeof(float) * (size_t)plan->shape.out_channels);
  layout.winners = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)plan->shape.out_active);
  const size_t gate = fbs_gate_workspace_size(&plan->shape);
  const size_t gemm = fbs_gemm_int8_workspace_size(plan->gemm, threads);
  layout.scratch = fbs_reserve(&layout.size, gate > gemm ? gate : gemm);
  return layout;
}

FbsConv2dInt8* fbs_conv2d_int8_create(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights,
                                      const FbsConv2dOptions* options) {
  if (!fbs_path_available(options->path)) return NULL;
  FbsConv2dInt8* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *shape;
  plan->weights = *weights;
  plan->gate_kernels = fbs_select_kernels(options->path);
  if (plan->gate_kernels == NULL) {
    snprintf(plan->name, sizeof plan->name, "int8_reference");
    return plan;
  }
  const FbsInt8Kernels* kernels = fbs_select_int8_kernels(options->path);
  snprintf(plan->name, sizeof plan->name, "int8_%s", kernels->name);
  plan->gemm = fbs_gemm_int8_create(shape, weights, kernels);
  if (plan->gemm == NULL) {
    free(plan);
    return NULL;
  }
  return plan;
}

void fbs_conv2d_int8_destroy(FbsConv2dInt8* plan) {
  if (plan == NULL) return;
  fbs_gemm_int8_destroy(plan->gemm);
  free(plan);
}

size_t fbs_conv2d_int8_workspace_size(const FbsConv2dInt8* plan, int32_t threads) {
  return layout_of(plan, threads).size;
}

size_t fbs_conv2d_int8_plan_size(const FbsConv2dInt8* plan) {
  return sizeof *plan + (plan->gemm != NULL ? fbs_gemm_int8_plan_size(plan->gemm) : 0);
}

const char* fbs_conv2d_int8_kernel_name(const FbsConv2dInt8* plan) { return plan->name; }

int fbs_conv2d_int8_run(const FbsConv2dInt8* plan, FbsThreads* threads, const float* x, const int32_t* in_indices,
                        float* y, int32_t* out_indices, void* workspace) {
  const FbsConv2dShape* s = &plan->shape;
  const int64_t indices = in_indices == NULL ? 0 : (int64_t)s->batch * s->in_active;
  for (int64_t i = 0; i < indices; i++) {
    if (in_indices[i] < 0 || in_indices[i] >= s->in_channels) return -1;
  }
  char* memory = workspace;
  const Layout layout = layout_of(plan, fbs_threads_count(threads));
  void* scratch = memory + layout.scratch;
  if (plan->gate_kernels == NULL) {
    fbs_reference_int8_run(s, &plan->weights, x, in_indices, y, out_indices, scratch);
    return 0;
  }
  const FbsConv2dWeights gate = {.gate_kernel = plan->weights.gate_kernel, .gate_bias = plan->weights.gate_bias};
  const int64_t values = (int64_t)s->in_height * s->in_width * s->in_active;
  const int64_t outputs = (int64_t)fbs_y_height(s) * fbs_y_width(s) * s->out_active;
  float* g = (float*)(memory + layout.g);
  for (int64_t n = 0; n < s->batch; n++) {
    int32_t* winners = out_indices == NULL ? (int32_t*)(memory + layout.winners) : out_indices + n * s->out_active;
    const float* image = x + n * values;
    const int32_t* image_indices = in_indices == NULL ? NULL : in_indices + n * s->in_active;
    FbsRange range;
    fbs_gate_run(s, &gate, plan->gate_kernels, threads, image, image_indices, g, winners, &range, scratch);
    if (isinf(range.low) || isinf(range.high)) range = fbs_finite_range(image, values);
    fbs_gemm_int8_run(plan->gemm, threads, image, image_indices, range, g, winners, y + n * outputs, scratch);
  }
  return 0;
}
