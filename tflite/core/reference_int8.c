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

void fbs_reference_int8_run(const FbsConv2dShape* s, const FbsConv2dInt8Weights* weights, const float* x,
                            const int32_t* in_indices, float* y, int32_t* out_indices, void* workspace) {
  const FbsConv2dWeights gate_weights = {.gate_kernel = weights->gate_kernel, .gate_bias = weights->gate_bias};
  const int64_t values = (int64_t)s->in_height * s->in_width * s->in_active;
  for (int64_t n = 0; n < s->batch; n++) {
    const float* image = x + n * values;
    const int32_t* indices = in_indices == NULL ? NULL : in_indices + n * s->in_active;
    const FbsReferenceGate gate = fbs_reference_gate(s, &gate_weights, image, indices, workspace);
    const FbsQuantisation q = fbs_quantisation_of(fbs_finite_range(image, values));
    for (int64_t oy = 0; oy < s->out_height; oy++) {
      for (int64_t ox = 0; ox < s->out_width; ox++) {
        for (int32_t i = 0; i < s->out_active; i++) {
          const int32_t out = gate.winners[i];
          const float sum = (float)convolve(s, weights->weights, image, indices, &q, oy, ox, out);
          const float v = gate.g[out] * (sum * (q.scale * weights->scales[out]) + weights->bias[out]);
          *y++ = (float)fbs_reference_activate(v, s->activation);
        }
      }
    }
    for (int32_t i = 0; out_indices != NULL && i < s->out_active; i++) {
      out_indices[n * s->out_active + i] = gate.winners[i];
    }
  }
}
