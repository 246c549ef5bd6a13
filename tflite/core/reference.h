/* The layers as their equations say it, in plain loops and double precision: what every other path is compared with. */
#ifndef FBS_CORE_REFERENCE_H_
#define FBS_CORE_REFERENCE_H_

#include "conv2d.h"
#include "depthwise.h"

size_t fbs_reference_workspace_size(const FbsConv2dShape* shape);

/* As fbs_conv2d_run, for indices that are known to be in range. */
void fbs_reference_run(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const float* x,
                       const int32_t* in_indices, float* y, int32_t* out_indices, void* workspace);

/* As fbs_depthwise_run, for indices that are known to be in range. */
void fbs_reference_depthwise(const FbsDepthwiseShape* shape, const FbsDepthwiseWeights* weights, const float* x,
                             const int32_t* indices, float* y);

#endif
