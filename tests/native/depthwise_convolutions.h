/* A depthwise convolution of random numbers, and the comparison of every path of this CPU with the reference. */
#ifndef FBS_TESTS_NATIVE_DEPTHWISE_CONVOLUTIONS_H_
#define FBS_TESTS_NATIVE_DEPTHWISE_CONVOLUTIONS_H_

#include <math.h>
#include <string.h>

#include "depthwise.h"
#include "pools.h"
#include "testing.h"
#include "windows.h"

typedef struct {
  float *weights, *bias, *x;
  int32_t* indices;
} Operands;

static int64_t inputs_of(const FbsDepthwiseShape* s) {
  return (int64_t)s->batch * s->in_height * s->in_width * s->active;
}

static int64_t outputs_of(const FbsDepthwiseShape* s) {
  return (int64_t)s->batch * s->out_height * s->out_width * s->active;
}

static float* random_floats(int64_t count) {
  float* values = NEW(float, count);
  for (int64_t i = 0; i < count; i++) values[i] = 8 * random_unit() - 4;
  return values;
}

static Operands new_operands(const FbsDepthwiseShape* s) {
  Operands operands = {.weights = random_floats((int64_t)s->channels * s->kernel_height * s->kernel_width),
                       .bias = random_floats(s->channels),
                       .x = random_floats(inputs_of(s)),
                       .indices = NEW(int32_t, (int64_t)s->batch * s->active)};
  for (int32_t n = 0; n < s->batch; n++) random_indices(s->channels, s->active, operands.indices + n * s->active);
  return operands;
}

static void free_operands(Operands* operands) {
  free(operands->weights);
  free(operands->bias);
  free(operands->x);
  free(operands->indices);
}

/* The status of a run on this many threads. */
static int run(const FbsDepthwiseShape* s, FbsPath path, const Operands* operands, float* y, int32_t threads) {
  char message[256];
  const char* refusal = fbs_depthwise_check(s, message, sizeof message);
  CHECK(refusal == NULL, "%s", message);
  void* workspace = new_workspace(fbs_depthwise_workspace_size(s, path));
  const FbsDepthwiseWeights weights = {operands->weights, operands->bias};
  const int status =
      fbs_depthwise_run(s, &weights, path, pools[threads - 1], operands->x, operands->indices, y, workspace);
  free(workspace);
  return status;
}

static void test_shape(const FbsDepthwiseShape* s) {
  Operands operands = new_operands(s);
  const size_t count = (size_t)outputs_of(s);
  float *expected = NEW(float, count), *y = NEW(float, count), *again = NEW(float, count);
  CHECK(run(s, kFbsPathReference, &operands, expected, 1) == 0, "refused");
  /* Of the sum of so many products below 16, and a bias: rounding, each time by half a unit in the last place. */
  const double bound = 16.0 * ((double)s->kernel_height * s->kernel_width + 1) * 0x1p-23;
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    for (int32_t threads = 1; threads <= kPools; threads++) {
      float* result = threads == 1 ? y : again;
      memset(result, -1, count * sizeof *result); /* NaN */
      CHECK(run(s, path, &operands, result, threads) == 0, "refused");
      CHECK(memcmp(y, result, count * sizeof *y) == 0, "%s: differs on %d threads", fbs_path_name(path), threads);
    }
    for (size_t i = 0; i < count; i++) {
      CHECK(fabs((double)y[i] - (double)expected[i]) <= bound,
            "%s: y[%zu] of %dx%dx%dx%d/%d, %dx%d stride %dx%d dilation %dx%d padding %d, %d is %g, expected %g",
            fbs_path_name(path), i, s->batch, s->in_height, s->in_width, s->active, s->channels, s->kernel_height,
            s->kernel_width, s->stride_height, s->stride_width, s->dilation_height, s->dilation_width, s->pad_top,
            s->pad_left, (double)y[i], (double)expected[i]);
    }
  }
  free(again);
  free(y);
  free(expected);
  free_operands(&operands);
}

#endif
