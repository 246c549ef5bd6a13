/* The gate: which output channels are computed, and what they are multiplied with. */
#ifndef FBS_CORE_GATE_H_
#define FBS_CORE_GATE_H_

#include "kernels.h"
#include "threads.h"
#include "types.h"

size_t fbs_gate_workspace_size(const FbsConv2dShape* shape);

/* For one image: g [out_channels] = ReLU(s @ gate_kernel[in_indices] + gate_bias), s = mean_{h,w} |x|, or ReLU(given)
 * unless `given` is NULL, and the winners [out_active], ascending. Also the range of x, in which NaN does not count,
 * unless `range` is NULL. */
void fbs_gate_run(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const FbsKernels* kernels,
                  FbsThreads* threads, const float* x, const int32_t* in_indices, const float* given, float* g,
                  int32_t* winners, FbsRange* range, void* workspace);

#endif
