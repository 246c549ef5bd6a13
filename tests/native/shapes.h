/* Shapes that the tests of the float32 and of the int8 convolution share, and the results of a shape. */
#ifndef FBS_TESTS_NATIVE_SHAPES_H_
#define FBS_TESTS_NATIVE_SHAPES_H_

#include <math.h>

#include "testing.h"
#include "windows.h"

static uint64_t seed; /* of the shape at hand */

static inline void print_shape(const FbsConv2dShape* s, bool sparse_in) {
  fprintf(stderr,
          "seed %llu: batch %d, %dx%d, %d of %d channels%s -> %dx%d, %d of %d in groups of %d, kernel %dx%d, "
          "stride %dx%d, dilation %dx%d, pad %d %d, activation %d, max pool %d\n",
          (unsigned long long)seed, s->batch, s->in_height, s->in_width, s->in_active, s->in_channels,
          sparse_in ? " (indexed)" : "", s->out_height, s->out_width, s->out_active, s->out_channels, s->group_size,
          s->kernel_height, s->kernel_width, s->stride_height, s->stride_width, s->dilation_height, s->dilation_width,
          s->pad_top, s->pad_left, (int)s->activation, s->max_pool);
}

/* ---- Shapes ---- */

/* k winners, at the edge of a vector, over every size of the last tile of pixels; x is dense where they are all. */
static inline FbsConv2dShape tile_shape(int32_t k, int32_t out_channels) {
  FbsConv2dShape s = {.batch = 1,
                      .in_height = 1 + k % 3,
                      .in_width = 1 + (k * 7) % 29,
                      .in_channels = 7,
                      .in_active = out_channels == k ? 7 : 3,
                      .out_channels = out_channels,
                      .out_active = k,
                      .group_size = 1,
                      .activation = kFbsActivationRelu};
  set_window(&s, &(Window){3, 2, 1, 1, true});
  return s;
}

/* A row of pixels, each a window of its own. */
static inline FbsConv2dShape row_shape(int32_t pixels, int32_t k, int32_t out_channels) {
  FbsConv2dShape s = {.batch = 1,
                      .in_height = 1,
                      .in_width = pixels,
                      .in_channels = 9,
                      .in_active = 5,
                      .out_channels = out_channels,
                      .out_active = k,
                      .group_size = 1,
                      .activation = kFbsActivationNone};
  set_window(&s, &(Window){1, 1, 1, 1, true});
  return s;
}

/* The n-th of the shapes whose winners are whole groups; in every third, x is dense. */
static inline FbsConv2dShape group_shape(int32_t n, int32_t size, int32_t groups, int32_t winning) {
  static const Window windows[] = {{3, 3, 1, 1, true}, {3, 3, 2, 1, true}, {1, 1, 1, 1, true}, {2, 3, 1, 2, true}};
  FbsConv2dShape s = {.batch = 1 + n % 2,
                      .in_height = 1 + n % 7,
                      .in_width = 1 + n % 5,
                      .in_channels = 1 + n % 11,
                      .out_channels = groups * size,
                      .out_active = winning * size,
                      .group_size = size,
                      .activation = kFbsActivationRelu};
  s.in_active = n % 3 == 0 ? s.in_channels : 1 + s.in_channels / 2;
  set_window(&s, &windows[n % 4]);
  return s;
}

/* Two images of 4 of 8 channels. */
static inline FbsConv2dShape small_shape(void) {
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 4,
                      .in_width = 4,
                      .in_channels = 8,
                      .in_active = 4,
                      .out_channels = 20,
                      .out_active = 9,
                      .group_size = 1};
  set_window(&s, &same_3x3);
  return s;
}

/* Two dense images, of which one may spoil the other. */
static inline FbsConv2dShape dense_shape(void) {
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 5,
                      .in_width = 5,
                      .in_channels = 8,
                      .in_active = 8,
                      .out_channels = 40,
                      .out_active = 12,
                      .group_size = 2,
                      .activation = kFbsActivationRelu};
  set_window(&s, &same_3x3);
  return s;
}

/* As the seed has it; false where the window leaves no output. */
static inline bool random_shape(FbsConv2dShape* s, bool* sparse_in) {
  random_state = seed;
  const Window any = {random_between(1, 4), random_between(1, 4), random_between(1, 3), random_between(1, 2),
                      random_between(0, 1)};
  const Window window = random_between(0, 2) > 0 ? any : (Window){3, 3, 1, 1, any.same};
  const int32_t group = random_between(0, 2) > 0 ? 1 : random_between(2, 5);
  const int32_t groups = random_between(1, random_between(0, 3) > 0 ? 20 : 90) / group + 1;
  *s = (FbsConv2dShape){.batch = random_between(1, 3),
                        .in_height = random_between(1, 9),
                        .in_width = random_between(1, 9),
                        .in_channels = random_between(1, 20),
                        .out_channels = groups * group,
                        .out_active = random_between(1, groups) * group,
                        .group_size = group,
                        .activation = (FbsActivation)random_between(0, 2)};
  s->in_active = random_between(1, s->in_channels);
  *sparse_in = s->in_active < s->in_channels || random_between(0, 1);
  return set_window(s, &window);
}

/* ---- Results ---- */

static inline size_t x_size_of(const FbsConv2dShape* s) {
  return (size_t)s->batch * (size_t)(s->in_height * s->in_width) * (size_t)s->in_active;
}

static inline size_t y_size_of(const FbsConv2dShape* s) {
  return (size_t)s->batch * (size_t)(fbs_y_height(s) * fbs_y_width(s)) * (size_t)s->out_active;
}

typedef struct {
  float* y;
  int32_t* indices;
} Result;

/* y of NaN, so that every output must be written; the first channels, as a run without winners leaves them. */
static inline Result new_result(const FbsConv2dShape* s) {
  const int32_t winners = s->batch * s->out_active;
  Result result = {constants(y_size_of(s), NAN), NEW(int32_t, winners)};
  for (int32_t i = 0; i < winners; i++) result.indices[i] = i % s->out_active;
  return result;
}

/* Ends the plan; the status of its run. */
static inline int run_plan(FbsConv2d* plan, const FbsConv2dShape* s, FbsThreads* threads, const float* x,
                           const int32_t* in_indices, const float* g, Result* result) {
  void* workspace = new_workspace(fbs_conv2d_workspace_size(plan, fbs_threads_count(threads)));
  const int status = fbs_conv2d_run(plan, threads, x, in_indices, g, result->y,
                                    s->out_active < s->out_channels ? result->indices : NULL, workspace);
  free(workspace);
  fbs_conv2d_destroy(plan);
  return status;
}

static inline void free_result(Result* result) {
  free(result->y);
  free(result->indices);
}

#endif
