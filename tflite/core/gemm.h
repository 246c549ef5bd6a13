/* The convolution as a matrix product: the active rows and columns of the weights are packed side by side, panel by
 * panel, and multiplied with the windows of the input, which are read in place. */
#ifndef FBS_CORE_GEMM_H_
#define FBS_CORE_GEMM_H_

#include "conv2d.h"
#include "kernels.h"

typedef struct FbsGemm FbsGemm;

/* NULL when memory runs out. */
FbsGemm* fbs_gemm_create(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const FbsKernels* kernels);
void fbs_gemm_destroy(FbsGemm* gemm);
size_t fbs_gemm_workspace_size(const FbsGemm* gemm);

/* y = act(g[winners] * (conv(x, weights[in_indices, :, winners]) + bias[winners])) for one image. */
void fbs_gemm_run(const FbsGemm* gemm, FbsThreads* threads, const float* x, const int32_t* in_indices, const float* g,
                  const int32_t* winners, float* y, void* workspace);

#endif
