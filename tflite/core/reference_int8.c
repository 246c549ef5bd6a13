#include <stddef.h>

#include "quantisation.h"
#include "reference.h"

/* The exact sum of one output: what x differs from 0 by, in units of its scale, times the weights. */
static int32_t convolve(const FbsConv2dShape* s, const int8_t* weights, const float* x, const int32_t* in_indices,
                        const FbsQuantisation* q, int64_t oy, int64_t ox, int64_t out) {
  const int64_t taps = (int64_t)s->kernel_height * s->kernel_width;
  int32_t sum = 0;
  for (int64_t ky = 0; ky < s->kernel_height; ky++) {
    for (int64_t kx = 0; kx < s->kernel_width; kx++) {
      const int64_t iy = oy * s->stride_height + ky * s->dilation_height - s->pad_top;
      const int64_t ix = ox * s->stride_width + kx * s->dilation_width - s->pad_left;
      if (iy < 0 || iy >= s->in_height || ix < 0 || ix >= s->in_width) continue;
      for (int32_t i = 0; i < s->in_active; i++) {
        const int64_t row = in_indices == NULL ? i : in_indices[i];
        const int32_t value = fbs_quantise(x[(iy * s->in_width + ix) * s->in_active + i], q->inverse, q->zero);
        sum += (value - q->zero) * weights[(row * taps + ky * s->kernel_width + kx) * s->out_channels + out];
      }
    }
  }
  return sum;
}

static float output_of(const FbsReference* plan, const FbsGatedImage* image, const FbsQuantisation* q, int64_t oy,
                       int64_t ox, int64_t i) {
  const FbsConv2dShape* s = &plan->shape;
  const FbsConv2dInt8Weights* w = &plan->int8_weights;
  const int32_t out = image->winners[i];
  const float sum = (float)convolve(s, w->weights, image->x, image->in_indices, q, oy, ox, out);
  const float v = image->g[out] * (sum * (q->scale * w->scales[out]) + w->bias[out]);
  return (float)fbs_reference_activate(v, s->activation);
}

/* Of values some of which are NaN, any: see kernels_int8.h. */
static float largest_of(const FbsReference* plan, const FbsGatedImage* image, const FbsQuantisation* q, int64_t oy,
                        int64_t ox, int64_t i) {
  float largest = output_of(plan, image, q, oy, ox, i);
  for (int64_t n = 1; n < 4; n++) {
    const float v = output_of(plan, image, q, oy + n / 2, ox + n % 2, i);
    largest = v > largest ? v : largest;
  }
  return largest;
}

void fbs_reference_int8_run(const void* context, FbsThreads* threads, const FbsGatedImage* image, float* y,
                            void* workspace) {
  (void)threads;
  (void)workspace;
  const FbsReference* plan = context;
  const FbsConv2dShape* s = &plan->shape;
  const int64_t values = (int64_t)s->in_height * s->in_width * s->in_active;
  const FbsQuantisation q = fbs_quantisation_of(fbs_finite_range(image->x, values));
  for (int64_t row = 0; row < fbs_y_height(s); row++) {
    for (int64_t column = 0; column < fbs_y_width(s); column++) {
      for (int32_t i = 0; i < s->out_active; i++) {
        *y++ = s->max_pool ? largest_of(plan, image, &q, 2 * row, 2 * column, i)
                           : output_of(plan, image, &q, row, column, i);
      }
    }
  }
}
