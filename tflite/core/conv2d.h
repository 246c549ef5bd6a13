/* One FBS convolution in float32, computed for the active channels only:
 *
 *   s = mean_{h,w} |x|;  g = ReLU(s @ gate_kernel[in_indices] + gate_bias)
 *   out_indices = the k largest of g, lower index first among equals, in ascending order
 *   y = act(g[out_indices] * (conv(x, weights[in_indices, :, out_indices]) + bias[out_indices]))
 *
 * A plan without a gate kernel is given g by each run, of which it takes ReLU(g), and does not compute s.
 *
 * A plan is made once for a shape and holds everything that does not depend on the input; running it allocates nothing,
 * and the result does not depend on the number of threads. Tensors are NHWC and compact: x holds in_active of
 * in_channels channels, y holds out_active of out_channels.
 */
#ifndef FBS_CORE_CONV2D_H_
#define FBS_CORE_CONV2D_H_

#include <stddef.h>
#include <stdint.h>

#include "threads.h"
#include "types.h"

typedef struct FbsConv2d FbsConv2d;

/* NULL when the shape can be computed, else a sentence that says what was expected and what came.
 * Also refuses shapes whose sizes overflow. `message` is the caller's buffer for it. */
const char* fbs_conv2d_check(const FbsConv2dShape* shape, char* message, size_t message_size);

/* NULL when memory runs out, or when the path is not available on this CPU (see fbs_path_available). The shape must
 * have passed fbs_conv2d_check. */
FbsConv2d* fbs_conv2d_create(const FbsConv2dShape* shape, const FbsConv2dWeights* weights,
                             const FbsConv2dOptions* options);
void fbs_conv2d_destroy(FbsConv2d* plan);

/* Bytes of scratch memory that a run on this many threads needs; plans that run one after another may share it. 64-byte
 * aligned by the caller. */
size_t fbs_conv2d_workspace_size(const FbsConv2d* plan, int32_t threads);

/* Bytes that the plan itself holds: tables and packed weights, besides the weights it was given. */
size_t fbs_conv2d_plan_size(const FbsConv2d* plan);

/* A short name of the chosen method and path, such as "gemm_avx512", for profiles. */
const char* fbs_conv2d_kernel_name(const FbsConv2d* plan);

/* in_indices: [batch][in_active], or NULL when x is dense. g: [batch][out_channels] for a plan without a gate kernel,
 * NULL for others. out_indices: [batch][out_active], or NULL when out_active == out_channels. Returns 0, or -1 when
 * in_indices holds a value outside [0, in_channels) (y and out_indices are then unspecified). */
int fbs_conv2d_run(const FbsConv2d* plan, FbsThreads* threads, const float* x, const int32_t* in_indices,
                   const float* g, float* y, int32_t* out_indices, void* workspace);

#endif
