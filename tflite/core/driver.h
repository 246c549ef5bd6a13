/* A driver is one method of computing the convolution of an image whose channels have been chosen. */
#ifndef FBS_CORE_DRIVER_H_
#define FBS_CORE_DRIVER_H_

#include "conv2d.h"
#include "kernels.h"

typedef struct {
  /* Whether it can compute the shape with these kernels. */
  int (*supports)(const FbsConv2dShape* shape, const FbsKernels* kernels);

  /* NULL when memory runs out. */
  void* (*create)(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const FbsKernels* kernels);
  void (*destroy)(void* plan); /* NULL is none */
  size_t (*workspace_size)(const void* plan, int32_t threads);
  size_t (*plan_size)(const void* plan); /* all bytes that create allocated */

  /* y = act(g[winners] * (conv(x, weights[in_indices, :, winners]) + bias[winners])) for one image; in_indices NULL: x
   * is dense. The result does not depend on the number of threads. */
  void (*run)(const void* plan, FbsThreads* threads, const float* x, const int32_t* in_indices, const float* g,
              const int32_t* winners, float* y, void* workspace);
} FbsDriver;

extern const FbsDriver fbs_gemm;
extern const FbsDriver fbs_winograd2, fbs_winograd4;
extern const FbsDriver fbs_in_place;
extern const FbsDriver fbs_grouped;

#endif
