/* The int8 convolution of an image whose channels have been chosen, as a matrix product: the image is quantised, the
 * active rows and columns of the weights are packed side by side, panel by panel, and multiplied with the windows. */
#ifndef FBS_CORE_GEMM_INT8_H_
#define FBS_CORE_GEMM_INT8_H_

#include "conv2d_int8.h"
#include "kernels_int8.h"

typedef struct FbsGemmInt8 FbsGemmInt8;

/* NULL when memory runs out. */
FbsGemmInt8* fbs_gemm_int8_create(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights,
                                  const FbsInt8Kernels* kernels);
void fbs_gemm_int8_destroy(FbsGemmInt8* gemm); /* NULL is none */
size_t fbs_gemm_int8_workspace_size(const FbsGemmInt8* gemm, int32_t threads);
size_t fbs_gemm_int8_plan_size(const FbsGemmInt8* gemm);

/* y for one image whose values are within `range`, but for NaN. in_indices NULL: x is dense. */
void fbs_gemm_int8_run(const FbsGemmInt8* gemm, FbsThreads* threads, const float* x, const int32_t* in_indices,
                       FbsRange range, const float* g, const int32_t* winners, float* y, void* workspace);

#endif
