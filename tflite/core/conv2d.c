#include "conv2d.h"

#include <stdlib.h>

#include "reference.h"
#include "select.h"

struct FbsConv2d {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  int32_t threads;
};

FbsConv2d* fbs_conv2d_create(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, FbsPath path,
                             int32_t threads) {
  if (!fbs_path_available(path) || threads < 1) return NULL;
  FbsConv2d* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *shape;
  plan->weights = *weights;
  plan->threads = threads;
  return plan;
}

void fbs_conv2d_destroy(FbsConv2d* plan) { free(plan); }

size_t fbs_conv2d_workspace_size(const FbsConv2d* plan) { return fbs_reference_workspace_size(&plan->shape); }

const char* fbs_conv2d_kernel_name(const FbsConv2d* plan) {
  (void)plan;
  return "reference";
}

int fbs_conv2d_run(const FbsConv2d* plan, FbsThreads* threads, const float* x, const int32_t* in_indices, float* y,
                   int32_t* out_indices, void* workspace) {
  const FbsConv2dShape* s = &plan->shape;
  (void)threads;
  const int64_t indices = in_indices == NULL ? 0 : (int64_t)s->batch * s->in_active;
  for (int64_t i = 0; i < indices; i++) {
    if (in_indices[i] < 0 || in_indices[i] >= s->in_channels) return -1;
  }
  fbs_reference_run(s, &plan->weights, x, in_indices, y, out_indices, workspace);
  return 0;
}
