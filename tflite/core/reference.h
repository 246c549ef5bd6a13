/* The layers as their equations say it, in plain loops and double precision: what every other path is compared with. */
#ifndef FBS_CORE_REFERENCE_H_
#define FBS_CORE_REFERENCE_H_

#include "conv2d.h"
#include "conv2d_int8.h"
#include "depthwise.h"

size_t fbs_reference_workspace_size(const FbsConv2dShape* shape);

/* As fbs_conv2d_run, for indices that are known to be in range. */
void fbs_reference_run(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const float* x,
                       const int32_t* in_indices, float* y, int32_t* out_indices, void* workspace);

/* As fbs_conv2d_int8_run, for indices that are known to be in range; needs as much workspace. */
void fbs_reference_int8_run(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights, const float* x,
                            const int32_t* in_indices, float* y, int32_t* out_indices, void* workspace);

/* Parts of a run for one image, with the workspace of a run: g of all channels and the winners, */
typedef struct {
  float* g;
  int32_t* winners;
} FbsReferenceGate;
FbsReferenceGate fbs_reference_gate(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const float* x,
                                    const int32_t* in_indices, void* workspace);

/* and the activation. */
double fbs_reference_activate(double v, FbsActivation activation);

/* As fbs_depthwise_run, for indices that are known to be in range. */
void fbs_reference_depthwise(const FbsDepthwiseShape* shape, const FbsDepthwiseWeights* weights, const float* x,
                             const int32_t* indices, float* y);

#endif
