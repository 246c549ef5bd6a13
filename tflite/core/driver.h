/* A driver computes the convolution of an image whose channels have been chosen. */
#ifndef FBS_CORE_DRIVER_H_
#define FBS_CORE_DRIVER_H_

#include "conv2d.h"
#include "kernels.h"

/* An image, and what the gate made of it. */
typedef struct {
  const float* x;            /* [in_height][in_width][in_active] */
  const int32_t* in_indices; /* NULL: x is dense */
  const float* g;            /* [out_channels] */
  const int32_t* winners;    /* [out_active] */
  FbsRange range;            /* of x, in which NaN does not count; for drivers that read it */
} FbsGatedImage;

typedef struct {
  int reads_range;
  void (*destroy)(void* plan); /* NULL is none */
  size_t (*workspace_size)(const void* plan, int32_t threads);
  size_t (*plan_size)(const void* plan); /* all bytes that the plan holds */

  /* y = act(g[winners] * (conv(x, weights[in_indices, :, winners]) + bias[winners])). The result does not depend on the
   * number of threads. */
  void (*run)(const void* plan, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace);
} FbsDriver;

/* A method of computing it in float32. */
typedef struct {
  /* Whether it can compute the shape with these kernels. */
  int (*supports)(const FbsConv2dShape* shape, const FbsKernels* kernels);

  /* The driver's plan; NULL when memory runs out. */
  void* (*create)(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const FbsKernels* kernels);
  FbsDriver driver;
} FbsFloatDriver;

extern const FbsFloatDriver fbs_gemm;
extern const FbsFloatDriver fbs_winograd2, fbs_winograd4;
extern const FbsFloatDriver fbs_in_place;
extern const FbsFloatDriver fbs_grouped;

/* A convolution by a driver, whose plan it takes over. Of the weights only the gate's are read, by `kernels`, or by the
 * reference where they are NULL, which finds no range. NULL when `convolution` is, or when memory runs out. */
FbsConv2d* fbs_conv2d_of(const FbsConv2dShape* shape, const FbsConv2dWeights* gate, const FbsKernels* kernels,
                         const FbsDriver* driver, void* convolution, const char* name);

#endif
