#include "conv2d.h"

#include <stdio.h>
#include <stdlib.h>

#include "driver.h"
#include "gate.h"
#include "isa.h"
#include "reference.h"
#include "select.h"
#include "workspace.h"

typedef struct {
  size_t g, winners, scratch, size;
} Layout;

struct FbsConv2d {
  FbsConv2dShape shape;
  FbsConv2dWeights gate;
  const FbsKernels* kernels; /* of the gate; NULL: the reference */
  const FbsDriver* driver;
  void* convolution; /* the driver's plan */
  char name[32];
};

static Layout layout_of(const FbsConv2d* plan, int32_t threads) {
  const FbsConv2dShape* s = &plan->shape;
  Layout layout = {0};
  layout.g = fbs_reserve(&layout.size, sizeof(float) * (size_t)s->out_channels);
  layout.winners = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)s->out_active);
  const size_t gate = plan->kernels == NULL ? fbs_reference_gate_workspace_size(s) : fbs_gate_workspace_size(s);
  const size_t convolution = plan->driver->workspace_size(plan->convolution, threads);
  layout.scratch = fbs_reserve(&layout.size, gate > convolution ? gate : convolution);
  return layout;
}

FbsConv2d* fbs_conv2d_of(const FbsConv2dShape* shape, const FbsConv2dWeights* gate, const FbsKernels* kernels,
                         const FbsDriver* driver, void* convolution, const char* name) {
  if (convolution == NULL) return NULL;
  FbsConv2d* plan = malloc(sizeof *plan);
  if (plan == NULL) {
    driver->destroy(convolution);
    return NULL;
  }
  *plan = (FbsConv2d){*shape, *gate, kernels, driver, convolution, ""};
  snprintf(plan->name, sizeof plan->name, "%s", name);
  return plan;
}

FbsConv2d* fbs_conv2d_create(const FbsConv2dShape* shape, const FbsConv2dWeights* weights,
                             const FbsConv2dOptions* options) {
  if (!fbs_path_available(options->path)) return NULL;
  const FbsKernels* kernels = fbs_select_kernels(options->path);
  if (kernels == NULL) {
    void* reference = fbs_reference_create((FbsReference){.shape = *shape, .weights = *weights});
    return fbs_conv2d_of(shape, weights, NULL, &fbs_reference, reference, "reference");
  }
  const FbsMethod method = fbs_select_method(shape, kernels, options);
  const FbsFloatDriver* chosen = fbs_driver_of(method);
  char name[32];
  snprintf(name, sizeof name, "%s_%s", fbs_method_name(method), kernels->name);
  return fbs_conv2d_of(shape, weights, kernels, &chosen->driver, chosen->create(shape, weights, kernels), name);
}

void fbs_conv2d_destroy(FbsConv2d* plan) {
  if (plan == NULL) return;
  plan->driver->destroy(plan->convolution);
  free(plan);
}

size_t fbs_conv2d_workspace_size(const FbsConv2d* plan, int32_t threads) { return layout_of(plan, threads).size; }

size_t fbs_conv2d_plan_size(const FbsConv2d* plan) { return sizeof *plan + plan->driver->plan_size(plan->convolution); }

const char* fbs_conv2d_kernel_name(const FbsConv2d* plan) { return plan->name; }

int fbs_conv2d_run(const FbsConv2d* plan, FbsThreads* threads, const float* x, const int32_t* in_indices,
                   const float* g, float* y, int32_t* out_indices, void* workspace) {
  const FbsConv2dShape* s = &plan->shape;
  const int64_t indices = in_indices == NULL ? 0 : (int64_t)s->batch * s->in_active;
  for (int64_t i = 0; i < indices; i++) {
    if (in_indices[i] < 0 || in_indices[i] >= s->in_channels) return -1;
  }
  const int64_t values = (int64_t)s->in_height * s->in_width * s->in_active;
  const int64_t outputs = (int64_t)fbs_y_height(s) * fbs_y_width(s) * s->out_active;
  const Layout layout = layout_of(plan, fbs_threads_count(threads));
  char* memory = workspace;
  float* predicted = (float*)(memory + layout.g);
  void* scratch = memory + layout.scratch;
  for (int64_t n = 0; n < s->batch; n++) {
    int32_t* winners = out_indices == NULL ? (int32_t*)(memory + layout.winners) : out_indices + n * s->out_active;
    FbsGatedImage image = {.x = x + n * values, .g = predicted, .winners = winners};
    if (in_indices != NULL) image.in_indices = in_indices + n * s->in_active;
    const float* given = plan->gate.gate_kernel == NULL ? g + n * s->out_channels : NULL;
    if (plan->kernels == NULL) {
      fbs_reference_gate(s, &plan->gate, image.x, image.in_indices, given, predicted, winners, scratch);
    } else {
      fbs_gate_run(s, &plan->gate, plan->kernels, threads, image.x, image.in_indices, given, predicted, winners,
                   plan->driver->reads_range ? &image.range : NULL, scratch);
    }
    plan->driver->run(plan->convolution, threads, &image, y + n * outputs, scratch);
  }
  return 0;
}
