/* The layers as their equations say it, in plain loops and double precision: what every other path is compared with. */
#ifndef FBS_CORE_REFERENCE_H_
#define FBS_CORE_REFERENCE_H_

#include "conv2d.h"
#include "conv2d_int8.h"
#include "depthwise.h"
#include "driver.h"

/* The gate of an image: g of all channels, ReLU(given) unless that is NULL, and the winners. */
size_t fbs_reference_gate_workspace_size(const FbsConv2dShape* shape);
void fbs_reference_gate(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const float* x,
                        const int32_t* in_indices, const float* given, float* g, int32_t* winners, void* workspace);

double fbs_reference_activate(double v, FbsActivation activation);

/* The plan of the drivers, which read the weights of their own type. */
typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  FbsConv2dInt8Weights int8_weights;
} FbsReference;

/* NULL when memory runs out. */
void* fbs_reference_create(FbsReference plan);

extern const FbsDriver fbs_reference, fbs_reference_int8;

/* As FbsDriver.run: the second one's, in reference_int8.c. */
void fbs_reference_int8_run(const void* plan, FbsThreads* threads, const FbsGatedImage* image, float* y,
                            void* workspace);

/* As fbs_depthwise_run, for indices that are known to be in range. */
void fbs_reference_depthwise(const FbsDepthwiseShape* shape, const FbsDepthwiseWeights* weights, const float* x,
                             const int32_t* indices, float* y);

#endif
