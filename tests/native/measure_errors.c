/* How far each method's outputs are from those in double precision, on each path of this CPU:
 *
 *   cc -std=gnu11 -O3 -I tflite/core tests/native/measure_errors.c tflite/core/[a-z]*.c tflite/core/kernels/[a-z]*.c \
 *       -lm -lpthread -o measure_errors
 *   ./measure_errors
 *
 * 3x3 convolutions of 14x14 pixels, stride 1, with SAME padding; weights of a standard normal distribution, and
 * activations of one, as they are and after a ReLU. The largest error is given relative to the outputs' rms. The gates
 * of the winners are 1, so what is measured is the convolution alone.
 */
#include <math.h>
#include <string.h>

#include "conv2d.h"
#include "isa.h"
#include "select.h"
#include "testing.h"
#include "windows.h"

enum { kSize = 14, kChannels = 96, kGroup = 16 }; /* whole groups, for the method that needs them */
static const int32_t depths[] = {32, 128, 512};
enum { kDepths = sizeof depths / sizeof depths[0], kInputs = 2 * kDepths }; /* as they are, and after a ReLU */

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  float* x;
  size_t y_size;
  double* y; /* what is expected */
  double rms;
} Problem;

static float random_normal(void) {
  const double radius = sqrt(-2 * log(1 - (double)random_unit())), angle = 2 * acos(-1) * (double)random_unit();
  return (float)(radius * cos(angle));
}

static float* normal(size_t n) {
  float* values = NEW(float, n);
  for (size_t i = 0; i < n; i++) values[i] = random_normal();
  return values;
}

/* Every second group wins. */
static int wins(int32_t out) { return out / kGroup % 2 == 0; }

/* y += x @ weights of one pixel and tap, for the winners */
static void add_tap(const Problem* p, const float* x, int32_t tap, double* y) {
  for (int64_t i = 0; i < p->shape.in_active; i++) {
    const float* weights = p->weights.weights + (i * 9 + tap) * kChannels;
    double* sum = y;
    for (int32_t o = 0; o < kChannels; o++) {
      if (wins(o)) *sum++ += (double)x[i] * (double)weights[o];
    }
  }
}

static void convolve(Problem* p) {
  memset(p->y, 0, p->y_size * sizeof *p->y);
  for (int32_t pixel = 0; pixel < kSize * kSize; pixel++) {
    for (int32_t tap = 0; tap < 9; tap++) {
      const int32_t row = pixel / kSize + tap / 3 - 1, column = pixel % kSize + tap % 3 - 1;
      if (row < 0 || row >= kSize || column < 0 || column >= kSize) continue;
      add_tap(p, p->x + (row * kSize + column) * p->shape.in_active, tap, p->y + pixel * p->shape.out_active);
    }
  }
  double squares = 0;
  for (size_t i = 0; i < p->y_size; i++) squares += p->y[i] * p->y[i];
  p->rms = sqrt(squares / (double)p->y_size);
}

static Problem problem_of(int32_t depth, int relu) {
  Problem p = {.shape = {.batch = 1,
                         .in_height = kSize,
                         .in_width = kSize,
                         .in_channels = depth,
                         .in_active = depth,
                         .out_channels = kChannels,
                         .out_active = kChannels / 2,
                         .group_size = kGroup,
                         .activation = kFbsActivationNone},
               .y_size = kSize * kSize * kChannels / 2};
  set_window(&p.shape, &same_3x3);
  const size_t x_size = (size_t)(kSize * kSize * depth);
  p.x = normal(x_size);
  for (size_t i = 0; relu && i < x_size; i++) p.x[i] = fmaxf(p.x[i], 0);
  float* gate_bias = NEW(float, kChannels);
  for (int32_t o = 0; o < kChannels; o++) gate_bias[o] = wins(o) ? 1 : 0.5f;
  p.weights = (FbsConv2dWeights){normal((size_t)(9 * depth * kChannels)), constants(kChannels, 0),
                                 constants((size_t)(depth * kChannels), 0), gate_bias};
  p.y = NEW(double, p.y_size);
  convolve(&p);
  return p;
}

static void free_problem(Problem* p) {
  free(p->x);
  free(p->y);
  free((void*)p->weights.weights);
  free((void*)p->weights.bias);
  free((void*)p->weights.gate_kernel);
  free((void*)p->weights.gate_bias);
}

static double error_of(const Problem* p, FbsThreads* threads, const FbsConv2dOptions* options) {
  FbsConv2d* plan = fbs_conv2d_create(&p->shape, &p->weights, options);
  CHECK(plan != NULL, "no plan for method %s", fbs_method_name(options->method));
  void* workspace = new_workspace(fbs_conv2d_workspace_size(plan, 1));
  float* y = NEW(float, p->y_size);
  int32_t winners[kChannels / 2];
  CHECK(fbs_conv2d_run(plan, threads, p->x, NULL, NULL, y, winners, workspace) == 0, "the run failed");
  double largest = 0;
  for (size_t i = 0; i < p->y_size; i++) largest = fmax(largest, fabs((double)y[i] - p->y[i]));
  free(y);
  free(workspace);
  fbs_conv2d_destroy(plan);
  return largest / p->rms;
}

int main(void) {
  FbsThreads* threads = fbs_threads_create(1);
  CHECK(threads != NULL, "no memory");
  Problem problems[kInputs];
  printf("%-9s %-10s", "path", "method");
  for (int32_t n = 0; n < kInputs; n++) {
    const int relu = n >= kDepths;
    problems[n] = problem_of(depths[n % kDepths], relu);
    printf("  %s %3d", relu ? "relu  " : "normal", depths[n % kDepths]);
  }
  printf("\n");
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    for (FbsMethod method = kFbsMethodGemm; method < kFbsMethods; method++) {
      const FbsConv2dOptions options = {path, method, 4};
      CHECK(fbs_select_method(&problems[0].shape, fbs_select_kernels(path), &options) == method,
            "method %s does not compute the shape", fbs_method_name(method));
      printf("%-9s %-10s", fbs_path_name(path), fbs_method_name(method));
      for (int32_t n = 0; n < kInputs; n++) printf("  %10.1e", error_of(&problems[n], threads, &options));
      printf("\n");
    }
  }
  for (int32_t n = 0; n < kInputs; n++) free_problem(&problems[n]);
  fbs_threads_destroy(threads);
  return 0;
}
