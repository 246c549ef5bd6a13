#include "reference.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* NaN counts as less than any number, so that there are always k winners. */
static bool greater(double a, double b) { return isnan(b) ? !isnan(a) : a > b; }

/* g = ReLU(s @ gate_kernel[in_indices] + gate_bias), s = mean_{h,w} |x| */
static void predict(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const float* x, const int32_t* in_indices,
                    double* saliency, float* g) {
  const int64_t pixels = (int64_t)s->in_height * s->in_width;
  for (int32_t i = 0; i < s->in_active; i++) {
    double sum = 0;
    for (int64_t p = 0; p < pixels; p++) sum += fabs((double)x[p * s->in_active + i]);
    saliency[i] = sum / (double)pixels;
  }
  for (int32_t o = 0; o < s->out_channels; o++) {
    double sum = weights->gate_bias[o];
    for (int32_t i = 0; i < s->in_active; i++) {
      const int64_t row = in_indices == NULL ? i : in_indices[i];
      sum += saliency[i] * weights->gate_kernel[row * s->out_channels + o];
    }
    g[o] = (float)(sum < 0 ? 0 : sum);
  }
}

/* The k largest groups of g, the lower index first among equals, in ascending order. */
static void choose(const FbsConv2dShape* s, const float* g, bool* chosen, int32_t* winners) {
  const int32_t groups = s->out_channels / s->group_size;
  for (int32_t i = 0; i < groups; i++) chosen[i] = false;
  for (int32_t n = 0; n < s->out_active / s->group_size; n++) {
    int32_t best = -1;
    double best_mean = 0;
    for (int32_t i = 0; i < groups; i++) {
      double mean = 0;
      for (int32_t j = 0; j < s->group_size; j++) mean += g[i * s->group_size + j];
      mean /= s->group_size;
      if (!chosen[i] && (best < 0 || greater(mean, best_mean))) {
        best = i;
        best_mean = mean;
      }
    }
    chosen[best] = true;
  }
  for (int32_t o = 0; o < s->out_channels; o++) {
    if (chosen[o / s->group_size]) *winners++ = o;
  }
}

size_t fbs_reference_gate_workspace_size(const FbsConv2dShape* s) {
  return (size_t)s->in_active * sizeof(double) + (size_t)(s->out_channels / s->group_size) * sizeof(bool);
}

void fbs_reference_gate(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const float* x,
                        const int32_t* in_indices, const float* given, float* g, int32_t* winners, void* workspace) {
  double* saliency = workspace;
  if (given == NULL) {
    predict(s, weights, x, in_indices, saliency, g);
  } else {
    for (int32_t o = 0; o < s->out_channels; o++) g[o] = given[o] < 0 ? 0 : given[o];
  }
  choose(s, g, (bool*)(saliency + s->in_active), winners);
}

double fbs_reference_activate(double v, FbsActivation activation) {
  if (activation != kFbsActivationNone && v < 0) return 0;
  if (activation == kFbsActivationRelu6 && v > 6) return 6;
  return v;
}

static void run(const void* plan, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  (void)threads;
  (void)workspace;
  const FbsConv2dShape* s = &((const FbsReference*)plan)->shape;
  const FbsConv2dWeights* weights = &((const FbsReference*)plan)->weights;
  const float *x = image->x, *g = image->g;
  const int32_t *in_indices = image->in_indices, *winners = image->winners;
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width;
  for (int64_t oy = 0; oy < s->out_height; oy++) {
    for (int64_t ox = 0; ox < s->out_width; ox++) {
      for (int32_t n = 0; n < s->out_active; n++) {
        double sum = 0;
        for (int64_t ky = 0; ky < s->kernel_height; ky++) {
          for (int64_t kx = 0; kx < s->kernel_width; kx++) {
            const int64_t iy = oy * s->stride_height + ky * s->dilation_height - s->pad_top;
            const int64_t ix = ox * s->stride_width + kx * s->dilation_width - s->pad_left;
            if (iy < 0 || iy >= s->in_height || ix < 0 || ix >= s->in_width) continue;
            for (int32_t i = 0; i < s->in_active; i++) {
              const int64_t row = in_indices == NULL ? i : in_indices[i];
              sum += (double)x[(iy * s->in_width + ix) * s->in_active + i] *
                     weights->weights[(row * taps + ky * s->kernel_width + kx) * s->out_channels + winners[n]];
            }
          }
        }
        y[(oy * s->out_width + ox) * s->out_active + n] =
            (float)fbs_reference_activate(g[winners[n]] * (sum + weights->bias[winners[n]]), s->activation);
      }
    }
  }
}

static size_t workspace_size(const void* plan, int32_t threads) {
  (void)plan;
  (void)threads;
  return 0;
}

static size_t plan_size(const void* plan) {
  (void)plan;
  return sizeof(FbsReference);
}

void* fbs_reference_create(FbsReference plan) {
  FbsReference* copy = malloc(sizeof *copy);
  if (copy != NULL) *copy = plan;
  return copy;
}

const FbsDriver fbs_reference = {0, free, workspace_size, plan_size, run};
const FbsDriver fbs_reference_int8 = {0, free, workspace_size, plan_size, fbs_reference_int8_run};

/* conv(x[..., j], w) at one output pixel; x is one image. */
static double convolve_channel(const FbsDepthwiseShape* s, const float* w, const float* x, int64_t j, int64_t oy,
                               int64_t ox) {
  double sum = 0;
  for (int64_t ky = 0; ky < s->kernel_height; ky++) {
    for (int64_t kx = 0; kx < s->kernel_width; kx++) {
      const int64_t iy = oy * s->stride_height + ky * s->dilation_height - s->pad_top;
      const int64_t ix = ox * s->stride_width + kx * s->dilation_width - s->pad_left;
      if (iy < 0 || iy >= s->in_height || ix < 0 || ix >= s->in_width) continue;
      sum += (double)x[(iy * s->in_width + ix) * s->active + j] * w[ky * s->kernel_width + kx];
    }
  }
  return sum;
}

void fbs_reference_depthwise(const FbsDepthwiseShape* s, const FbsDepthwiseWeights* weights, const float* x,
                             const int32_t* indices, float* y) {
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width;
  for (int64_t n = 0; n < s->batch; n++, x += (int64_t)s->in_height * s->in_width * s->active, indices += s->active) {
    for (int64_t oy = 0; oy < s->out_height; oy++) {
      for (int64_t ox = 0; ox < s->out_width; ox++) {
        for (int64_t j = 0; j < s->active; j++) {
          const double sum = convolve_channel(s, weights->weights + indices[j] * taps, x, j, oy, ox);
          *y++ = (float)fbs_reference_activate(sum + weights->bias[indices[j]], s->activation);
        }
      }
    }
  }
}
