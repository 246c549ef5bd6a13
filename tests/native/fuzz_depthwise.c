/* Fuzzes the depthwise convolution: any shape is refused, or every path of this CPU agrees with the reference. */
#include "depthwise_convolutions.h"
#include "fuzzing.h"

enum { kMostMacs = 1 << 17, kMostElements = 1 << 15 };

static bool any_shape(FbsDepthwiseShape* s) {
  const int32_t kind = random_between(0, 3), most = random_between(0, 7) == 0 ? 60 : 16;
  AnyAxis rows, columns;
  if (!any_axis(kind, most, &rows) || !any_axis(kind, most, &columns)) return false;
  *s = (FbsDepthwiseShape){.batch = any_size(3),
                           .in_height = rows.in,
                           .in_width = columns.in,
                           .channels = any_size(100),
                           .kernel_height = rows.kernel,
                           .kernel_width = columns.kernel,
                           .stride_height = rows.stride,
                           .stride_width = columns.stride,
                           .dilation_height = rows.dilation,
                           .dilation_width = columns.dilation,
                           .pad_top = rows.pad,
                           .pad_left = columns.pad,
                           .out_height = rows.out,
                           .out_width = columns.out,
                           .activation = (FbsActivation)random_between(0, 2)};
  s->active = any_size(s->channels > 1 ? s->channels : 1);
  return true;
}

static bool is_small(const FbsDepthwiseShape* s) {
  const double taps = (double)s->kernel_height * s->kernel_width;
  return taps * s->channels <= kMostElements &&
         (double)s->batch * s->in_height * s->in_width * s->active <= kMostElements &&
         taps * s->batch * s->out_height * s->out_width * s->active <= kMostMacs;
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  begin_input(data, size);
  FbsDepthwiseShape s;
  char message[256];
  if (!any_shape(&s)) return 0;
  if (fbs_depthwise_check(&s, message, sizeof message) != NULL || !is_small(&s)) return 0;
  test_shape(&s);
  return 0;
}
