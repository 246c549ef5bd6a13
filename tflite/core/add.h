/* A sum of dense and compact tensors in float32, written dense:
 *
 *   y[n, p, c] = act(sum_i x_i[n, p, c])
 *
 * where a compact x_i holds the channels that its indices name, in their order, and is 0 in all others. One addend
 * makes a compact tensor dense.
 */
#ifndef FBS_CORE_ADD_H_
#define FBS_CORE_ADD_H_

#include <stddef.h>
#include <stdint.h>

#include "threads.h"
#include "types.h"

enum { kFbsMaxAddends = 8 };

typedef struct {
  int32_t batch, pixels, channels;
  int32_t addends;
  int32_t active[kFbsMaxAddends]; /* channels that each compact addend holds; 0: it is dense */
  FbsActivation activation;
} FbsAddShape;

/* As fbs_conv2d_check. */
const char* fbs_add_check(const FbsAddShape* shape, char* message, size_t message_size);

/* Bytes of scratch memory that a run needs; runs after one another may share it. 64-byte aligned by the caller. */
size_t fbs_add_workspace_size(const FbsAddShape* shape, FbsPath path);

/* Whose kernels run, such as "avx512", for profiles. */
const char* fbs_add_kernel_name(FbsPath path);

/* The shape must have passed fbs_add_check, the path must be available. x: for each addend [batch][pixels][its
 * channels]. indices: for each compact addend [batch][active], distinct and in any order (which one of equal ones
 * counts is not defined). y: [batch][pixels][channels]. Returns 0, or -1 when an index is outside [0, channels)
 * (nothing is then written). Allocates nothing, and the result does not depend on the number of threads. */
int fbs_add_run(const FbsAddShape* shape, FbsPath path, FbsThreads* threads, const float* const* x,
                const int32_t* const* indices, float* y, void* workspace);

#endif
