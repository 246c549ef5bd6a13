#include "window.h"

#include <inttypes.h>
#include <stddef.h>

static const struct {
  const char* name;
  size_t offset;
} kIntegers[] = {
    {"kernel_h", offsetof(FbsWindow, kernel_h)},     {"kernel_w", offsetof(FbsWindow, kernel_w)},
    {"stride_h", offsetof(FbsWindow, stride_h)},     {"stride_w", offsetof(FbsWindow, stride_w)},
    {"dilation_h", offsetof(FbsWindow, dilation_h)}, {"dilation_w", offsetof(FbsWindow, dilation_w)},
};

bool fbs_window_parse(const FbsFlexMap* map, FbsWindow* window, FbsMessage* message) {
  static const char* const kPaddings[] = {"SAME", "VALID", NULL};
  for (size_t i = 0; i < sizeof kIntegers / sizeof *kIntegers; ++i) {
    int32_t* value = (int32_t*)((char*)window + kIntegers[i].offset);
    if (!fbs_attribute_int(map, kIntegers[i].name, 1, INT32_MAX, value, message)) return false;
  }
  int padding;
  if (!fbs_attribute_choice(map, "padding", kPaddings, "SAME or VALID", &padding, message)) return false;
  window->same_padding = padding == 0;
  return true;
}

bool fbs_window_taps(const FbsWindow* window, int32_t* taps, FbsMessage* message) {
  const int64_t product = (int64_t)window->kernel_h * window->kernel_w;
  if (product > INT32_MAX) {
    return fbs_fail(message, "a kernel of %" PRId32 " x %" PRId32 " is too large", window->kernel_h, window->kernel_w);
  }
  *taps = (int32_t)product;
  return true;
}

/* Output size and leading padding along one axis, TensorFlow's rule: SAME puts the odd zero at the end. */
static bool output_size(const char* axis, int32_t in, int32_t kernel, int32_t stride, int32_t dilation, bool same,
                        int32_t* out, int32_t* pad_before, FbsMessage* message) {
  const int64_t window = (int64_t)(kernel - 1) * dilation + 1;
  int64_t padding = 0;
  if (same) {
    *out = (int32_t)(((int64_t)in + stride - 1) / stride);
    padding = (int64_t)(*out - 1) * stride + window - in;
    if (padding < 0) padding = 0;
  } else {
    if (window > in) {
      return fbs_fail(message, "a window of %s %" PRId64 " does not fit an input of %s %" PRId32 " without padding",
                      axis, window, axis, in);
    }
    *out = (int32_t)((in - window) / stride + 1);
  }
  if (padding > INT32_MAX) {
    return fbs_fail(message, "a window of %s %" PRId64 " is too large for an input of %s %" PRId32, axis, window, axis,
                    in);
  }
  *pad_before = (int32_t)(padding / 2);
  return true;
}

bool fbs_window_output(const FbsWindow* w, int32_t in_height, int32_t in_width, int32_t* out_height, int32_t* out_width,
                       int32_t* pad_top, int32_t* pad_left, FbsMessage* message) {
  return output_size("height", in_height, w->kernel_h, w->stride_h, w->dilation_h, w->same_padding, out_height, pad_top,
                     message) &&
         output_size("width", in_width, w->kernel_w, w->stride_w, w->dilation_w, w->same_padding, out_width, pad_left,
                     message);
}
