/* One FBS convolution with weights of 8 bits, computed for the active channels only. Each image is quantised to 8 bits
 * by its own range; the gate sees it as it came:
 *
 *   g, out_indices as in conv2d.h
 *   lo = min(0, min x), hi = max(0, max x) over the finite values of the image
 *   s = (hi - lo) / 255, or 1 where 1 / s would not be finite;  z = clamp(rint(-lo / s), 0, 255)
 *   q = clamp(rint(x * (1 / s)) + z, 0, 255); NaN becomes z, and the padding is z
 *   sum = conv(q - z, weights[in_indices, :, out_indices]), exactly
 *   y = act(g[out_indices] * (sum * (s * scales[out_indices]) + bias[out_indices]))
 *
 * and with max_pool, y is the largest of each 2x2 of these, a last odd row or column of which is left out.
 * Roundings are to nearest, ties to even. Everything else is as in conv2d.h.
 */
#ifndef FBS_CORE_CONV2D_INT8_H_
#define FBS_CORE_CONV2D_INT8_H_

#include "conv2d.h"

/* Not copied: they must outlive the plan and keep their values. */
typedef struct {
  const int8_t* weights;    /* [in_channels][kernel_height * kernel_width][out_channels], from -127 to 127 */
  const float* scales;      /* [out_channels] */
  const float* bias;        /* [out_channels] */
  const float* gate_kernel; /* [in_channels][out_channels]; NULL: each run is given g */
  const float* gate_bias;   /* [out_channels]; NULL likewise */
} FbsConv2dInt8Weights;

/* As fbs_conv2d_check. Also refuses weights of -128, and windows so large that the sums could overflow. */
const char* fbs_conv2d_int8_check(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights, char* message,
                                  size_t message_size);

/* As fbs_conv2d_create; of the options only the path matters. The plan is run, asked and destroyed as any other, and
 * its kernels are named such as "int8_avx512vnni". */
FbsConv2d* fbs_conv2d_int8_create(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights,
                                  const FbsConv2dOptions* options);

#endif
