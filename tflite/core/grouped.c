/* The convolution where the winners are whole groups of a vector's width: the weights are read in place, from a second
 * copy of them that holds the channels of a vector side by side. Nothing is packed for an image: 3x3 at 7x7x512,
 * density 0.5, takes 0.24 ms where gemm.c takes 0.35 (Zen 5, AVX-512). */
#include <stdlib.h>

#include "driver.h"
#include "multiplication.h"
#include "workspace.h"

typedef struct {
  size_t multiplication, groups, rows, size;
} Layout;

typedef struct {
  FbsConv2dShape shape;
  const float* bias;
  const FbsKernels* kernels;
  int32_t vectors, panels;
  FbsPanel* panel;
  int32_t* offsets; /* see FbsMultiplication */
  float* weights;   /* [out_channels / lanes][taps][in_channels][lanes] */
  Layout layout;
} Grouped;

static void regroup_weights(const FbsConv2dShape* s, int64_t lanes, const float* from, float* to) {
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width, vectors = s->out_channels / lanes;
  for (int64_t i = 0; i < s->in_channels; i++) {
    for (int64_t t = 0; t < taps; t++) {
      for (int64_t v = 0; v < vectors; v++) {
        float* group = to + ((v * taps + t) * s->in_channels + i) * lanes;
        for (int64_t lane = 0; lane < lanes; lane++) group[lane] = *from++;
      }
    }
  }
}

/* Also where all channels win, in whatever groups. */
static int supports(const FbsConv2dShape* s, const FbsKernels* kernels) {
  const int32_t group = s->out_active == s->out_channels ? s->out_channels : s->group_size;
  return group % kernels->lanes == 0 && fbs_count_weights(s) <= ((size_t)1 << 30) / sizeof(float);
}

static void destroy(void* context) {
  Grouped* plan = context;
  if (plan == NULL) return;
  free(plan->weights);
  free(plan->offsets);
  free(plan->panel);
  free(plan);
}

static void* create(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels) {
  Grouped* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *s;
  plan->bias = weights->bias;
  plan->kernels = kernels;
  plan->vectors = s->out_active / kernels->lanes;
  plan->panel = malloc(sizeof *plan->panel * (size_t)plan->vectors);
  plan->offsets = fbs_find_offsets(s);
  void* copy;
  if (plan->panel == NULL || plan->offsets == NULL ||
      posix_memalign(&copy, 64, sizeof(float) * fbs_count_weights(s)) != 0) {
    destroy(plan);
    return NULL;
  }
  plan->weights = copy;
  plan->panels = fbs_divide_into_panels(plan->vectors, plan->panel);
  regroup_weights(s, kernels->lanes, weights->weights, plan->weights);
  plan->layout.multiplication = fbs_reserve(&plan->layout.size, fbs_multiplication_workspace_size(s));
  plan->layout.groups = fbs_reserve(&plan->layout.size, sizeof(float*) * (size_t)plan->vectors);
  plan->layout.rows = fbs_reserve(
      &plan->layout.size,
      sizeof(int32_t) * ((size_t)(s->kernel_height * s->kernel_width) * (size_t)s->in_active + kFbsRowsAhead));
  return plan;
}

static size_t workspace_size(const void* plan, int32_t threads) {
  (void)threads;
  return ((const Grouped*)plan)->layout.size;
}

static size_t plan_size(const void* context) {
  const Grouped* plan = context;
  const FbsConv2dShape* s = &plan->shape;
  const size_t windows = (size_t)(s->kernel_height * s->kernel_width) * (size_t)(s->out_height * s->out_width);
  return sizeof *plan + sizeof *plan->panel * (size_t)plan->vectors + sizeof *plan->offsets * windows +
         sizeof *plan->weights * fbs_count_weights(s);
}

static void run(const void* context, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  const Grouped* plan = context;
  const FbsConv2dShape* s = &plan->shape;
  const int64_t lanes = plan->kernels->lanes;
  char* memory = workspace;
  FbsMultiplication multiplication =
      fbs_multiplication_of(s, plan->offsets, plan->bias, image, y, memory + plan->layout.multiplication);
  const float** groups = (const float**)(memory + plan->layout.groups);
  for (int64_t v = 0; v < plan->vectors; v++) {
    groups[v] = plan->weights + image->winners[v * lanes] * (int64_t)multiplication.taps * s->in_channels;
  }
  int32_t* rows = (int32_t*)(memory + plan->layout.rows);
  multiplication.rows = rows;
  for (int64_t t = 0; t < multiplication.taps; t++) {
    for (int64_t i = 0; i < s->in_active; i++) {
      *rows++ = (int32_t)((t * s->in_channels + (image->in_indices == NULL ? i : image->in_indices[i])) * lanes);
    }
  }
  for (int32_t n = 0; n < kFbsRowsAhead; n++) rows[n] = 0;
  multiplication.groups = groups;
  fbs_multiply_panels(&multiplication, plan->kernels, threads, plan->panel, plan->panels, NULL);
}

const FbsFloatDriver fbs_grouped = {supports, create, {0, destroy, workspace_size, plan_size, run}};
