/* Shapes of convolutions from a fuzzer's input, few enough of them too large to compute. */
#ifndef FBS_TESTS_NATIVE_FUZZED_SHAPES_H_
#define FBS_TESTS_NATIVE_FUZZED_SHAPES_H_

#include "fuzzing.h"
#include "shapes.h"

enum { kMostMacs = 1 << 14, kMostElements = 1 << 13 };

static bool any_shape(FbsConv2dShape* s, bool* sparse_in) {
  const int32_t kind = random_between(0, 3), most = random_between(0, 7) == 0 ? 40 : 12;
  AnyAxis rows, columns;
  if (!any_axis(kind, most, &rows) || !any_axis(kind, most, &columns)) return false;
  const int32_t group = random_between(0, 1) ? 1 : any_size(48);
  *s = (FbsConv2dShape){.batch = any_size(3),
                        .in_height = rows.in,
                        .in_width = columns.in,
                        .in_channels = any_size(40),
                        .group_size = group,
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
  s->in_active = random_between(0, 3) ? random_between(1, s->in_channels > 1 ? s->in_channels : 1) : any_size(40);
  *sparse_in = s->in_active != s->in_channels || random_between(0, 1);
  const int32_t groups = any_size(group > 4 ? 6 : 90), winning = any_size(groups > 1 ? groups : 1);
  const int64_t out = (int64_t)groups * group, active = (int64_t)winning * group;
  s->out_channels = out == (int32_t)out ? (int32_t)out : INT32_MAX;
  s->out_active = active == (int32_t)active ? (int32_t)active : INT32_MAX;
  return true;
}

/* Of a shape that has passed the check. */
static bool is_small(const FbsConv2dShape* s) {
  const double weights = (double)s->kernel_height * s->kernel_width * s->in_channels * s->out_channels;
  const double x = (double)s->batch * s->in_height * s->in_width * s->in_active;
  const double y = (double)s->batch * s->out_height * s->out_width * s->out_active;
  return weights <= kMostElements && x <= kMostElements && y <= kMostElements &&
         y * s->kernel_height * s->kernel_width * s->in_active <= kMostMacs;
}

/* Whether every image has its k winners, distinct and in ascending order. */
static void check_winners(const FbsConv2dShape* s, const Result* result) {
  for (int32_t i = 0; i < s->batch * s->out_active; i++) {
    const int32_t least = i % s->out_active == 0 ? 0 : result->indices[i - 1] + 1;
    CHECK(result->indices[i] >= least && result->indices[i] < s->out_channels, "index %d is %d", i, result->indices[i]);
  }
}

#endif
