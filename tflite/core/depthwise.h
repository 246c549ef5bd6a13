/* A depthwise convolution of a compact tensor in float32, computed for the channels that it holds only:
 *
 *   y[..., j] = act(conv(x[..., j], weights[indices[j]]) + bias[indices[j]])
 *
 * Tensors are NHWC; x and y hold `active` of `channels` channels, the same ones in the same order.
 */
#ifndef FBS_CORE_DEPTHWISE_H_
#define FBS_CORE_DEPTHWISE_H_

#include <stddef.h>
#include <stdint.h>

#include "threads.h"
#include "types.h"

typedef struct {
  int32_t batch, in_height, in_width;
  int32_t channels; /* rows of the weights */
  int32_t active;   /* channels that x and y hold */
  int32_t kernel_height, kernel_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_left; /* zeros before the first row and column */
  int32_t out_height, out_width;
  FbsActivation activation;
} FbsDepthwiseShape;

typedef struct {
  const float* weights; /* [channels][kernel_height * kernel_width] */
  const float* bias;    /* [channels] */
} FbsDepthwiseWeights;

/* As fbs_conv2d_check. */
const char* fbs_depthwise_check(const FbsDepthwiseShape* shape, char* message, size_t message_size);

/* Bytes of scratch memory that a run needs; runs after one another may share it. 64-byte aligned by the caller. */
size_t fbs_depthwise_workspace_size(const FbsDepthwiseShape* shape, FbsPath path);

/* Whose kernels run, such as "avx512", for profiles. */
const char* fbs_depthwise_kernel_name(FbsPath path);

/* The shape must have passed fbs_depthwise_check, the path must be available. x: [batch][in_height][in_width][active].
 * indices: [batch][active], in any order. y: [batch][out_height][out_width][active]. Returns 0, or -1 when an index is
 * outside [0, channels) (nothing is then written). Allocates nothing, and the result does not depend on the number of
 * threads. */
int fbs_depthwise_run(const FbsDepthwiseShape* shape, const FbsDepthwiseWeights* weights, FbsPath path,
                      FbsThreads* threads, const float* x, const int32_t* indices, float* y, void* workspace);

#endif
