#include "windows.h"

void fbs_find_offsets(const FbsConv2dShape* s, int32_t* offsets) {
  for (int64_t ky = 0; ky < s->kernel_height; ky++) {
    for (int64_t kx = 0; kx < s->kernel_width; kx++) {
      for (int64_t oy = 0; oy < s->out_height; oy++) {
        const int64_t iy = oy * s->stride_height + ky * s->dilation_height - s->pad_top;
        for (int64_t ox = 0; ox < s->out_width; ox++) {
          const int64_t ix = ox * s->stride_width + kx * s->dilation_width - s->pad_left;
          const int inside = iy >= 0 && iy < s->in_height && ix >= 0 && ix < s->in_width;
          *offsets++ = inside ? (int32_t)((iy * s->in_width + ix) * s->in_active) : -1;
        }
      }
    }
  }
}
