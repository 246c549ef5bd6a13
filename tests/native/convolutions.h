/* A convolution of random integers, and the comparison of every method on every path of this CPU with the reference.
 *
 * Activations, weights and biases are small integers, so a convolution's sums are exact in float32 and only the gate
 * rounds: outputs may differ by a few units in the last place of g, and of winners only those whose g is as near. But
 * Winograd's F(4x4, 3x3) rounds the sums, too.
 */
#ifndef FBS_TESTS_NATIVE_CONVOLUTIONS_H_
#define FBS_TESTS_NATIVE_CONVOLUTIONS_H_

#include <math.h>
#include <string.h>

#include "isa.h"
#include "pools.h"
#include "select.h"
#include "shapes.h"

static const double kTolerance = 1e-5;         /* relative, of g: sums of at most some thousand float32 terms */
static const double kWinogradTolerance = 5e-5; /* of F(4x4), relative to the rms of the sums */

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  float* x;
  int32_t* in_indices;
  float* g; /* NULL: the plan predicts it */
} Problem;

static float* small_integers(size_t n, int32_t least, int32_t most) {
  float* values = NEW(float, n);
  for (size_t i = 0; i < n; i++) values[i] = (float)random_between(least, most);
  return values;
}

static float* fractions(size_t n, float scale) {
  float* values = NEW(float, n);
  for (size_t i = 0; i < n; i++) values[i] = (random_unit() - 0.3f) * scale;
  return values;
}

/* Eighths, of which many tie and some are negative. */
static float* any_gates(size_t n) {
  float* values = small_integers(n, -6, 16);
  for (size_t i = 0; i < n; i++) values[i] /= 8;
  return values;
}

/* With the operand g in place of a gate. */
static void give_gates(Problem* p) {
  free((void*)p->weights.gate_kernel);
  free((void*)p->weights.gate_bias);
  p->weights.gate_kernel = p->weights.gate_bias = NULL;
  p->g = any_gates((size_t)p->shape.batch * (size_t)p->shape.out_channels);
}

static Problem problem_of(const FbsConv2dShape* s, bool sparse_in) {
  Problem p = {.shape = *s};
  const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
  p.x = small_integers(x_size_of(s), -4, 4);
  p.weights = (FbsConv2dWeights){small_integers(in * (size_t)(s->kernel_height * s->kernel_width) * out, -4, 4),
                                 small_integers(out, -9, 9), fractions(in * out, 1.0f / (float)in), fractions(out, 1)};
  if (sparse_in) {
    p.in_indices = NEW(int32_t, s->batch * s->in_active);
    for (int32_t n = 0; n < s->batch; n++) {
      random_indices(s->in_channels, s->in_active, p.in_indices + n * s->in_active);
    }
  }
  return p;
}

static void free_problem(Problem* p) {
  free(p->x);
  free(p->in_indices);
  free((void*)p->weights.weights);
  free((void*)p->weights.bias);
  free((void*)p->weights.gate_kernel);
  free((void*)p->weights.gate_bias);
  free(p->g);
}

enum { kMostOptions = kFbsPaths * kFbsMethods };

/* Every path of this CPU, but for the reference, with every method that computes the shape. */
static int32_t find_options(const FbsConv2dShape* s, FbsConv2dOptions* found) {
  int32_t count = 0;
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    for (FbsMethod method = kFbsMethodGemm; method < kFbsMethods; method++) {
      const FbsConv2dOptions options = {path, method, 4};
      if (fbs_select_method(s, fbs_select_kernels(path), &options) == method) found[count++] = options;
    }
  }
  return count;
}

static const FbsConv2dOptions reference = {kFbsPathReference, kFbsMethodAuto, 0};

/* The status of a run. */
static int run_into(const Problem* p, const FbsConv2dOptions* options, FbsThreads* threads, Result* result) {
  FbsConv2d* plan = fbs_conv2d_create(&p->shape, &p->weights, options);
  CHECK(plan != NULL, "no plan for path %s", fbs_path_name(options->path));
  return run_plan(plan, &p->shape, threads, p->x, p->in_indices, p->g, result);
}

static Result run(const Problem* p, const FbsConv2dOptions* options, FbsThreads* threads) {
  Result result = new_result(&p->shape);
  const int status = run_into(p, options, threads, &result);
  CHECK(status == 0, "status %d", status);
  return result;
}

/* g of channel `out` for image n, in double precision. */
static double channel_gate(const Problem* p, int32_t n, int32_t out) {
  const FbsConv2dShape* s = &p->shape;
  const int32_t pixels = s->in_height * s->in_width;
  if (p->g != NULL) return fmax(p->g[n * s->out_channels + out], 0);
  double g = p->weights.gate_bias[out];
  for (int32_t i = 0; i < s->in_active; i++) {
    double saliency = 0;
    for (int32_t q = 0; q < pixels; q++) saliency += fabs(p->x[((size_t)n * pixels + q) * s->in_active + i]);
    const int32_t row = p->in_indices == NULL ? i : p->in_indices[n * s->in_active + i];
    g += saliency / pixels * p->weights.gate_kernel[(size_t)row * s->out_channels + out];
  }
  return g > 0 ? g : 0;
}

/* The mean g over the group of channel `out`. */
static double group_gate(const Problem* p, int32_t n, int32_t out) {
  const int32_t size = p->shape.group_size, first = out / size * size;
  double mean = 0;
  for (int32_t o = first; o < first + size; o++) mean += channel_gate(p, n, o) / size;
  return mean;
}

static void print_case(const FbsConv2dOptions* options, const FbsConv2dShape* s, bool sparse_in) {
  fprintf(stderr, "path %s, method %s, ", fbs_path_name(options->path), fbs_method_name(options->method));
  print_shape(s, sparse_in);
}

#define CHECK_SHAPE(condition, ...)               \
  do {                                            \
    if (!(condition)) {                           \
      print_case(options, s, p->in_indices != 0); \
      CHECK(condition, __VA_ARGS__);              \
    }                                             \
  } while (0)

/* What an output of channel `out` may be off by, besides its gate's rounding: nothing but for F(4x4), whose transforms
 * round, since the other methods compute with integers and halves. Activations and weights are integers from -4 to 4,
 * so a product's rms is 20/3. */
static double tolerance_of(const Problem* p, FbsMethod method, int32_t n, int32_t out) {
  if (method != kFbsMethodWinograd4) return kTolerance;
  return kTolerance + kWinogradTolerance * 20 / 3 * sqrt(9.0 * p->shape.in_active) * channel_gate(p, n, out);
}

/* Channel i of y and channel j of what is expected are channel `out` of all. */
static void compare_channel(const Problem* p, const FbsConv2dOptions* options, const float* y, const float* expected,
                            int32_t n, int32_t i, int32_t j, int32_t out) {
  const FbsConv2dShape* s = &p->shape;
  const double tolerance = tolerance_of(p, options->method, n, out);
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  for (int64_t q = n * pixels; q < (n + 1) * pixels; q++) {
    const double got = y[q * s->out_active + i], want = expected[q * s->out_active + j];
    CHECK_SHAPE(fabs(got - want) <= kTolerance * fabs(want) + tolerance,
                "image %d, pixel %d, channel %d: %.9g, expected %.9g", n, (int)(q % pixels), i, got, want);
  }
}

static void compare_image(const Problem* p, const FbsConv2dOptions* options, const Result* got, const Result* want,
                          int32_t n) {
  const FbsConv2dShape* s = &p->shape;
  const int32_t k = s->out_active;
  const int32_t *a = got->indices + n * k, *b = want->indices + n * k;
  for (int32_t i = 0; i < k; i++) {
    CHECK_SHAPE(a[i] >= (i > 0 ? a[i - 1] + 1 : 0) && a[i] < s->out_channels, "image %d: index %d is %d", n, i, a[i]);
  }
  if (p->g != NULL) CHECK_SHAPE(memcmp(a, b, sizeof *a * (size_t)k) == 0, "image %d: other winners of the same g", n);
  double lowest_a = INFINITY, lowest_b = INFINITY; /* of the winners only one of the two has */
  for (int32_t i = 0, j = 0; i < k || j < k;) {
    if (i < k && j < k && a[i] == b[j]) {
      compare_channel(p, options, got->y, want->y, n, i, j, a[i]);
      i++, j++;
    } else if (j == k || (i < k && a[i] < b[j])) {
      lowest_a = fmin(lowest_a, group_gate(p, n, a[i++]));
    } else {
      lowest_b = fmin(lowest_b, group_gate(p, n, b[j++]));
    }
  }
  if (lowest_b < INFINITY) {
    CHECK_SHAPE(fabs(lowest_a - lowest_b) <= kTolerance * (lowest_b + 1), "image %d: winner of %.9g, expected %.9g", n,
                lowest_a, lowest_b);
  }
}

/* Whether a run on these threads gives the same result, bit for bit, as the `first` one. */
static void compare_threads(const Problem* p, const FbsConv2dOptions* options, const Result* first,
                            FbsThreads* threads) {
  const FbsConv2dShape* s = &p->shape;
  Result other = run(p, options, threads);
  CHECK_SHAPE(memcmp(first->y, other.y, sizeof(float) * y_size_of(s)) == 0 &&
                  memcmp(first->indices, other.indices, sizeof(int32_t) * (size_t)(s->batch * s->out_active)) == 0,
              "%d threads give another result than 1", fbs_threads_count(threads));
  free_result(&other);
}

static inline void test_options(const Problem* p, const Result* expected, const FbsConv2dOptions* options) {
  Result first = run(p, options, pools[0]);
  for (int32_t n = 0; n < p->shape.batch; n++) compare_image(p, options, &first, expected, n);
  for (int32_t i = 1; i < kPools; i++) compare_threads(p, options, &first, pools[i]);
  free_result(&first);
}

/* given: whether g is an operand. */
static inline void test_gate(const FbsConv2dShape* s, bool sparse_in, bool given) {
  char message[256];
  const char* refused = fbs_conv2d_check(s, message, sizeof message);
  if (refused != NULL) print_case(&FBS_CONV2D_DEFAULTS, s, sparse_in);
  CHECK(refused == NULL, "%s", refused);
  Problem problem = problem_of(s, sparse_in);
  if (given) give_gates(&problem);
  Result expected = run(&problem, &reference, pools[0]);
  FbsConv2dOptions options[kMostOptions];
  const int32_t count = find_options(s, options);
  for (int32_t i = 0; i < count; i++) test_options(&problem, &expected, &options[i]);
  free_result(&expected);
  free_problem(&problem);
}

static inline void test_shape(const FbsConv2dShape* s, bool sparse_in) { test_gate(s, sparse_in, false); }

#endif
