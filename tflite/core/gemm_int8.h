/* The int8 convolution of an image whose channels have been chosen, as a matrix product: the image is quantised, the
 * active rows and columns of the weights are packed side by side, panel by panel, and multiplied with the windows. */
#ifndef FBS_CORE_GEMM_INT8_H_
#define FBS_CORE_GEMM_INT8_H_

#include "conv2d_int8.h"
#include "driver.h"
#include "kernels_int8.h"

/* The driver's plan; NULL when memory runs out. */
void* fbs_gemm_int8_create(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights,
                           const FbsInt8Kernels* kernels);

extern const FbsDriver fbs_gemm_int8;

#endif
