#include "conv2d.h"

#include <stdio.h>
#include <stdlib.h>

#include "driver.h"
#include "gate.h"
#include "reference.h"
#include "select.h"
#include "workspace.h"

typedef struct {
  size_t g, winners, scratch, size;
} Layout;

struct FbsConv2d {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  const FbsKernels* kernels; /* NULL: the reference */
  const FbsDriver* driver;
  void* convolution; /* the driver's plan */
  char name[32];
};

static Layout layout_of(const FbsConv2d* plan, int32_t threads) {
  Layout layout = {0};
  if (plan->kernels == NULL) {
    layout.scratch = fbs_reserve(&layout.size, fbs_reference_workspace_size(&plan->shape));
    return layout;
  }
  layout.g = fbs_reserve(&layout.size, sizeof(float) * (size_t)plan->shape.out_channels);
  layout.winners = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)plan->shape.out_active);
  const size_t gate = fbs_gate_workspace_size(&plan->shape);
  const size_t convolution = plan->driver->workspace_size(plan->convolution, threads);
  layout.scratch = fbs_reserve(&layout.size, gate > convolution ? gate : convolution);
  return layout;
}

FbsConv2d* fbs_conv2d_create(const FbsConv2dShape* shape, const FbsConv2dWeights* weights,
                             const FbsConv2dOptions* options) {
  if (!fbs_path_available(options->path)) return NULL;
  FbsConv2d* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *shape;
  plan->weights = *weights;
  plan->kernels = fbs_select_kernels(options->path);
  if (plan->kernels == NULL) {
    snprintf(plan->name, sizeof plan->name, "reference");
    return plan;
  }
  const FbsMethod method = fbs_select_method(shape, plan->kernels, options);
  snprintf(plan->name, sizeof plan->name, "%s_%s", fbs_method_name(method), plan->kernels->name);
  plan->driver = fbs_driver_of(method);
  plan->convolution = plan->driver->create(shape, weights, plan->kernels);
  if (plan->convolution == NULL) {
    free(plan);
    return NULL;
  }
  return plan;
}

void fbs_conv2d_destroy(FbsConv2d* plan) {
  if (plan == NULL) return;
  if (plan->driver != NULL) plan->driver->destroy(plan->convolution);
  free(plan);
}

size_t fbs_conv2d_workspace_size(const FbsConv2d* plan, int32_t threads) { return layout_of(plan, threads).size; }

size_t fbs_conv2d_plan_size(const FbsConv2d* plan) {
  return sizeof *plan + (plan->driver != NULL ? plan->driver->plan_size(plan->convolution) : 0);
}

const char* fbs_conv2d_kernel_name(const FbsConv2d* plan) { return plan->name; }

int fbs_conv2d_run(const FbsConv2d* plan, FbsThreads* threads, const float* x, const int32_t* in_indices, float* y,
                   int32_t* out_indices, void* workspace) {
  const FbsConv2dShape* s = &plan->shape;
  const int64_t indices = in_indices == NULL ? 0 : (int64_t)s->batch * s->in_active;
  for (int64_t i = 0; i < indices; i++) {
    if (in_indices[i] < 0 || in_indices[i] >= s->in_channels) return -1;
  }
  char* memory = workspace;
  const Layout layout = layout_of(plan, fbs_threads_count(threads));
  void* scratch = memory + layout.scratch;
  if (plan->kernels == NULL) {
    fbs_reference_run(s, &plan->weights, x, in_indices, y, out_indices, scratch);
    return 0;
  }
  float* g = (float*)(memory + layout.g);
  for (int64_t n = 0; n < s->batch; n++) {
    int32_t* winners = out_indices == NULL ? (int32_t*)(memory + layout.winners) : out_indices + n * s->out_active;
    const float* image = x + n * s->in_height * s->in_width * s->in_active;
    const int32_t* image_indices = in_indices == NULL ? NULL : in_indices + n * s->in_active;
    fbs_gate_run(s, &plan->weights, plan->kernels, threads, image, image_indices, g, winners, NULL, scratch);
    plan->driver->run(plan->convolution, threads, image, image_indices, g, winners,
                      y + n * s->out_height * s->out_width * s->out_active, scratch);
  }
  return 0;
}
