/* Where a window's outputs and zeros are, as TensorFlow has it. */
#ifndef FBS_TESTS_NATIVE_WINDOWS_H_
#define FBS_TESTS_NATIVE_WINDOWS_H_

#include <stdbool.h>

#include "conv2d.h"

typedef struct {
  int32_t kernel_height, kernel_width, stride, dilation;
  bool same;
} Window;

static const Window same_3x3 = {3, 3, 1, 1, true};

/* Output size and leading zeros along one axis; false where VALID leaves no output. */
static inline bool set_axis(int32_t in, int32_t kernel, int32_t stride, int32_t dilation, bool same, int32_t* out,
                            int32_t* pad) {
  const int32_t window = (kernel - 1) * dilation + 1;
  *out = same ? (in + stride - 1) / stride : (in - window) / stride + 1;
  const int32_t padding = (*out - 1) * stride + window - in;
  *pad = same && padding > 0 ? padding / 2 : 0;
  return same || in >= window;
}

/* Sets what follows from the input size and the window; false where VALID leaves no output. */
static inline bool set_window(FbsConv2dShape* s, const Window* w) {
  s->kernel_height = w->kernel_height;
  s->kernel_width = w->kernel_width;
  s->stride_height = s->stride_width = w->stride;
  s->dilation_height = s->dilation_width = w->dilation;
  return set_axis(s->in_height, w->kernel_height, w->stride, w->dilation, w->same, &s->out_height, &s->pad_top) &&
         set_axis(s->in_width, w->kernel_width, w->stride, w->dilation, w->same, &s->out_width, &s->pad_left);
}

#endif
