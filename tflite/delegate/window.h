/* The window of a convolution: the attributes that all convolutions have, and the sizes that follow from them. */
#ifndef FBS_DELEGATE_WINDOW_H_
#define FBS_DELEGATE_WINDOW_H_

#include "attributes.h"

typedef struct {
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  bool same_padding; /* TensorFlow's SAME, else VALID */
} FbsWindow;

bool fbs_window_parse(const FbsFlexMap* map, FbsWindow* window, FbsMessage* message);

/* Taps of the kernel. */
bool fbs_window_taps(const FbsWindow* window, int32_t* taps, FbsMessage* message);

/* The output's size, and the zeros before the first row and column. */
bool fbs_window_output(const FbsWindow* window, int32_t in_height, int32_t in_width, int32_t* out_height,
                       int32_t* out_width, int32_t* pad_top, int32_t* pad_left, FbsMessage* message);

#endif
