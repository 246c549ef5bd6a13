/* A problem for the int8 convolution, and the comparison of every kind of kernels of this CPU with the reference.
 *
 * The winners' g is 1, scales are powers of 2 and the bias 0, so that y shows the sums and any two ways to compute it
 * must agree in every bit; then another gate, scales and bias, where only roundings may differ.
 */
#ifndef FBS_TESTS_NATIVE_CONVOLUTIONS_INT8_H_
#define FBS_TESTS_NATIVE_CONVOLUTIONS_INT8_H_

#include <math.h>
#include <string.h>

#include "conv2d_int8.h"
#include "gemm_int8.h"
#include "isa.h"
#include "pools.h"
#include "quantisation.h"
#include "shapes.h"

/* ---- Inputs ---- */

typedef enum { kSigned, kPositive, kNegative, kZero, kConstant, kHuge, kTiny, kTooTiny, kInputs } Input;
static const char* const input_names[] = {"signed",   "positive", "negative", "zero",
                                          "constant", "huge",     "tiny",     "too tiny"};

static float value_of(Input input) {
  const float unit = random_unit();
  switch (input) {
    case kSigned:
      return 5 * unit - 2;
    case kPositive:
      return unit < 0.5f ? 0 : unit;
    case kNegative:
      return -3 * unit;
    case kConstant:
      return 0.7f;
    case kHuge:
      return (2 * unit - 1) * 3.4e38f;
    case kTiny:
      return (2 * unit - 1) * 1e-36f; /* their scale is a denormal number, its inverse still finite */
    case kTooTiny:
      return unit * 1e-40f;
    case kZero:
    case kInputs:
      break;
  }
  return 0;
}

typedef struct {
  FbsConv2dShape shape;
  Input input;
  FbsConv2dInt8Weights weights;
  float* x;
  int32_t* in_indices;
  const float* g; /* NULL: the plan predicts it */
} Problem;

static int8_t* random_bytes(size_t n) {
  int8_t* values = NEW(int8_t, n);
  for (size_t i = 0; i < n; i++) values[i] = (int8_t)random_between(-127, 127);
  return values;
}

/* `count` of the first n integers in whole groups of neighbours; in ascending order or, as any is allowed, shuffled. */
static void random_groups(int32_t n, int32_t count, int32_t size, int32_t* subset) {
  const bool ascending = random_between(0, 1);
  random_subset(n / size, count / size, subset);
  if (!ascending) shuffle(count / size, count / size, subset);
  spread_groups(size, count, subset);
}

/* A gate of 1 for as many random groups as win, and of 0 for the others. */
static float* exact_gate(const FbsConv2dShape* s) {
  int32_t* winners = NEW(int32_t, s->out_active);
  random_subset(s->out_channels / s->group_size, s->out_active / s->group_size, winners);
  spread_groups(s->group_size, s->out_active, winners);
  float* gate = constants((size_t)s->out_channels, 0);
  for (int32_t i = 0; i < s->out_active; i++) gate[winners[i]] = 1;
  free(winners);
  return gate;
}

static Problem problem_of(const FbsConv2dShape* s, bool sparse_in, Input input) {
  Problem p = {.shape = *s, .input = input};
  const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
  p.x = NEW(float, x_size_of(s));
  for (size_t i = 0; i < x_size_of(s); i++) p.x[i] = value_of(input);
  p.weights = (FbsConv2dInt8Weights){random_bytes(in * (size_t)(s->kernel_height * s->kernel_width) * out),
                                     constants(out, 1), constants(out, 0), constants(in * out, 0), exact_gate(s)};
  float* scales = (float*)p.weights.scales;
  for (size_t i = 0; i < out; i++) scales[i] = ldexpf(1, random_between(-9, -2));
  if (sparse_in) {
    p.in_indices = NEW(int32_t, s->batch * s->in_active);
    const bool quads = s->in_channels % 4 == 0 && s->in_active % 4 == 0 && random_between(0, 2) > 0;
    for (int32_t n = 0; n < s->batch; n++) {
      random_groups(s->in_channels, s->in_active, quads ? 4 : 1, p.in_indices + n * s->in_active);
    }
  }
  return p;
}

/* Any gate, scales and bias, with g of clearly different values in a random order, so that all agree who wins. */
static void make_inexact(Problem* p) {
  const FbsConv2dShape* s = &p->shape;
  const int32_t out = s->out_channels, groups = out / s->group_size;
  int32_t* order = NEW(int32_t, groups);
  random_subset(groups, groups, order); /* all */
  shuffle(groups, groups, order);
  float mean = 0; /* of |x| in the largest image */
  for (size_t i = 0; i < x_size_of(s); i++) mean = fmaxf(mean, fabsf(p->x[i]));
  const float part = mean > 1e-30f ? 0.2f / mean / (float)(s->in_channels * groups) : 0;
  for (int32_t o = 0; o < out; o++) {
    ((float*)p->weights.gate_bias)[o] = 0.5f + (float)order[o / s->group_size] / (float)groups;
    ((float*)p->weights.scales)[o] = 0.001f + 0.01f * random_unit();
    ((float*)p->weights.bias)[o] = 4 * random_unit() - 2;
  }
  for (int32_t i = 0; i < s->in_channels * out; i++) {
    ((float*)p->weights.gate_kernel)[i] = part * (2 * random_unit() - 1);
  }
  free(order);
}

static void free_problem(Problem* p) {
  free(p->x);
  free(p->in_indices);
  free((void*)p->weights.weights);
  free((void*)p->weights.scales);
  free((void*)p->weights.bias);
  free((void*)p->weights.gate_kernel);
  free((void*)p->weights.gate_bias);
}

/* ---- Runs ---- */

/* The status of a run. */
static int run_into(const Problem* p, FbsPath path, FbsThreads* threads, Result* result) {
  const FbsConv2dOptions options = {.path = path};
  FbsConv2d* plan = fbs_conv2d_int8_create(&p->shape, &p->weights, &options);
  CHECK(plan != NULL, "no plan for path %s", fbs_path_name(path));
  return run_plan(plan, &p->shape, threads, p->x, p->in_indices, p->g, result);
}

static Result run(const Problem* p, FbsPath path, FbsThreads* threads) {
  Result result = new_result(&p->shape);
  const int status = run_into(p, path, threads, &result);
  CHECK(status == 0, "status %d", status);
  return result;
}

/* With kernels that this CPU has, but does not choose; g is 1 for all winners, which the reference has found. */
static Result run_gemm(const Problem* p, const FbsInt8Kernels* kernels, FbsThreads* threads, const Result* expected) {
  const FbsConv2dShape* s = &p->shape;
  void* gemm = fbs_gemm_int8_create(s, &p->weights, kernels);
  CHECK(gemm != NULL, "no plan for %s", kernels->name);
  void* workspace = new_workspace(fbs_gemm_int8.workspace_size(gemm, fbs_threads_count(threads)));
  Result result = new_result(s);
  const int64_t x_size = (int64_t)x_size_of(s) / s->batch, y_size = (int64_t)y_size_of(s) / s->batch;
  for (int64_t n = 0; n < s->batch; n++) {
    const float* x = p->x + n * x_size;
    int32_t* winners = result.indices + n * s->out_active;
    memcpy(winners, expected->indices + n * s->out_active, sizeof *winners * (size_t)s->out_active);
    const FbsGatedImage image = {.x = x,
                                 .in_indices = p->in_indices == NULL ? NULL : p->in_indices + n * s->in_active,
                                 .g = p->weights.gate_bias,
                                 .winners = winners,
                                 .range = fbs_finite_range(x, x_size)};
    fbs_gemm_int8.run(gemm, threads, &image, result.y + n * y_size, workspace);
  }
  free(workspace);
  fbs_gemm_int8.destroy(gemm);
  return result;
}

/* ---- Comparisons ---- */

static void print_problem(const Problem* p, const char* name) {
  fprintf(stderr, "%s, %s input, ", name, input_names[p->input]);
  print_shape(&p->shape, p->in_indices != NULL);
}

/* tolerance: 0 for equal bits, else relative to the terms of the output. */
static void compare(const Problem* p, const char* name, const Result* got, const Result* want, float tolerance) {
  const FbsConv2dShape* s = &p->shape;
  const int32_t pixels = fbs_y_height(s) * fbs_y_width(s), k = s->out_active;
  for (int32_t i = 0; i < s->batch * k; i++) {
    if (got->indices[i] == want->indices[i]) continue;
    print_problem(p, name);
    CHECK(false, "image %d: index %d is %d, expected %d", i / k, i % k, got->indices[i], want->indices[i]);
  }
  for (size_t i = 0; i < y_size_of(s); i++) {
    const float a = got->y[i], b = want->y[i];
    if (a == b || fabsf(a - b) <= tolerance * (fabsf(b) + 2)) continue; /* 2: the bias */
    print_problem(p, name);
    CHECK(false, "image %d, pixel %d, channel %d: %.9g, expected %.9g", (int)i / (pixels * k), (int)i / k % pixels,
          (int)i % k, a, b);
  }
}

/* Every kind of kernels that this CPU can run. */
static int32_t find_kernels(const FbsInt8Kernels** found) {
  int32_t count = 0;
  for (const FbsIsa* isa = fbs_isas; isa < fbs_isas + kFbsIsas; isa++) {
    const int has_own = isa->int8_kernels != NULL && *isa->int8_kernels != NULL;
    if (has_own && fbs_isa_available(isa)) found[count++] = *isa->int8_kernels;
  }
  return count;
}

/* As the reference is what all must equal, one run of each is enough. */
static int32_t pool_number;
static FbsThreads* next_pool(void) { return pools[pool_number++ % kPools]; }

static void test_exactly(const Problem* p, const Result* expected) {
  const FbsInt8Kernels* kernels[8];
  const int32_t count = find_kernels(kernels);
  for (int32_t i = 0; i < count; i++) {
    Result result = run_gemm(p, kernels[i], next_pool(), expected);
    compare(p, kernels[i]->name, &result, expected, 0);
    free_result(&result);
  }
}

/* tolerance: of y, relative */
static void test_paths(const Problem* p, const Result* expected, float tolerance) {
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    Result result = run(p, path, next_pool());
    compare(p, fbs_path_name(path), &result, expected, tolerance);
    free_result(&result);
  }
}

/* The same g, as an operand: for all images that of the gate's bias, since its kernel is 0. */
static void test_given(const Problem* p, const Result* expected) {
  const int32_t out = p->shape.out_channels;
  float* g = NEW(float, p->shape.batch* out);
  for (int32_t i = 0; i < p->shape.batch * out; i++) g[i] = p->weights.gate_bias[i % out];
  Problem given = *p;
  given.weights.gate_kernel = given.weights.gate_bias = NULL;
  given.g = g;
  test_paths(&given, expected, 0);
  free(g);
}

static void test_shape(const FbsConv2dShape* s, bool sparse_in, Input input) {
  Problem p = problem_of(s, sparse_in, input);
  char message[256];
  const char* refused = fbs_conv2d_int8_check(s, &p.weights, message, sizeof message);
  if (refused != NULL) print_problem(&p, "check");
  CHECK(refused == NULL, "%s", refused);
  Result expected = run(&p, kFbsPathReference, pools[0]);
  test_exactly(&p, &expected);
  if (input == kSigned || input == kHuge) test_given(&p, &expected); /* the same for the others */
  if (input != kHuge) test_paths(&p, &expected, 0); /* the sums of |x| overflow where they are not of doubles */
  free_result(&expected);
  if (input != kHuge) {
    make_inexact(&p);
    expected = run(&p, kFbsPathReference, pools[0]);
    test_paths(&p, &expected, 1e-5f);
    free_result(&expected);
  }
  free_problem(&p);
}

#endif
