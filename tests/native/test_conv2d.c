/* Every method on every path of this CPU against the reference: a table of shapes at the edges of the tiles, then
 * random shapes.
 *
 *   test_conv2d SEED COUNT
 *
 * The random shape that fails comes first with the seed that is printed with it.
 *
 * Activations, weights and biases are small integers, so a convolution's sums are exact in float32 and only the gate
 * rounds: outputs may differ by a few units in the last place of g, and of winners only those whose g is as near.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "conv2d.h"
#include "select.h"
#include "testing.h"

enum { kPools = 3 }; /* of 1, 2 and 3 threads */
static FbsThreads* pools[kPools];
static const double kTolerance = 1e-5; /* relative, of g: sums of at most some thousand float32 terms */

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  size_t x_size, y_size;
  float* x;
  int32_t* in_indices;
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

/* count of the first n integers, in ascending order or, as any order is allowed, shuffled */
static int32_t* random_indices(int32_t n, int32_t count) {
  int32_t* all = NEW(int32_t, n);
  for (int32_t i = 0; i < n; i++) all[i] = i;
  for (int32_t i = 0; i < count; i++) {
    const int32_t j = random_between(i, n - 1), swapped = all[i];
    all[i] = all[j];
    all[j] = swapped;
  }
  int32_t* indices = NEW(int32_t, count);
  memcpy(indices, all, sizeof(int32_t) * (size_t)count);
  free(all);
  return indices;
}

static Problem problem_of(const FbsConv2dShape* s, bool sparse_in) {
  Problem p = {.shape = *s};
  const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
  p.x_size = (size_t)s->batch * (size_t)(s->in_height * s->in_width) * (size_t)s->in_active;
  p.y_size = (size_t)s->batch * (size_t)(s->out_height * s->out_width) * (size_t)s->out_active;
  p.x = small_integers(p.x_size, -4, 4);
  p.weights = (FbsConv2dWeights){small_integers(in * (size_t)(s->kernel_height * s->kernel_width) * out, -4, 4),
                                 small_integers(out, -9, 9), fractions(in * out, 1.0f / (float)in), fractions(out, 1)};
  if (sparse_in) {
    p.in_indices = NEW(int32_t, s->batch * s->in_active);
    for (int32_t n = 0; n < s->batch; n++) {
      int32_t* indices = random_indices(s->in_channels, s->in_active);
      memcpy(p.in_indices + n * s->in_active, indices, sizeof(int32_t) * (size_t)s->in_active);
      free(indices);
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
}

typedef struct {
  float* y;
  int32_t* indices;
} Result;

enum { kMostOptions = (kFbsPathNeon + 1) * (kFbsMethodWinograd4 + 1) };

/* Every path of this CPU, but for the reference, with every method that computes the shape. */
static int32_t find_options(const FbsConv2dShape* s, FbsConv2dOptions* found) {
  int32_t count = 0;
  for (FbsPath path = kFbsPathPlain; path <= kFbsPathNeon; path++) {
    if (!fbs_path_available(path)) continue;
    for (FbsMethod method = kFbsMethodGemm; method <= kFbsMethodWinograd4; method++) {
      const FbsConv2dOptions options = {path, method, 4};
      if (fbs_select_method(s, fbs_select_kernels(path), &options) == method) found[count++] = options;
    }
  }
  return count;
}

static const FbsConv2dOptions reference = {kFbsPathReference, kFbsMethodAuto, 0};

static Result run(const Problem* p, const FbsConv2dOptions* options, int32_t threads) {
  const FbsConv2dShape* s = &p->shape;
  FbsConv2d* plan = fbs_conv2d_create(s, &p->weights, options);
  CHECK(plan != NULL, "no plan for path %s", fbs_path_name(options->path));
  Result result = {NEW(float, p->y_size), NEW(int32_t, s->batch * s->out_active)};
  for (size_t i = 0; i < p->y_size; i++) result.y[i] = NAN;
  for (int32_t i = 0; i < s->batch * s->out_active; i++) result.indices[i] = i % s->out_active;
  const size_t size = (fbs_conv2d_workspace_size(plan, threads) + 63) / 64 * 64;
  void* workspace = aligned_alloc(64, size);
  CHECK(workspace != NULL, "no memory");
  memset(workspace, 0xff, size); /* NaN */
  const int status = fbs_conv2d_run(plan, pools[threads - 1], p->x, p->in_indices, result.y,
                                    s->out_active < s->out_channels ? result.indices : NULL, workspace);
  CHECK(status == 0, "status %d", status);
  free(workspace);
  fbs_conv2d_destroy(plan);
  return result;
}

static void free_result(Result* result) {
  free(result->y);
  free(result->indices);
}

/* The mean g over the group of channel `out` for image n, in double precision. */
static double group_gate(const Problem* p, int32_t n, int32_t out) {
  const FbsConv2dShape* s = &p->shape;
  const int32_t pixels = s->in_height * s->in_width, first = out / s->group_size * s->group_size;
  double mean = 0;
  for (int32_t o = first; o < first + s->group_size; o++) {
    double g = p->weights.gate_bias[o];
    for (int32_t i = 0; i < s->in_active; i++) {
      double saliency = 0;
      for (int32_t q = 0; q < pixels; q++) saliency += fabs(p->x[((size_t)n * pixels + q) * s->in_active + i]);
      const int32_t row = p->in_indices == NULL ? i : p->in_indices[n * s->in_active + i];
      g += saliency / pixels * p->weights.gate_kernel[(size_t)row * s->out_channels + o];
    }
    mean += (g > 0 ? g : 0) / s->group_size;
  }
  return mean;
}

static uint64_t seed; /* of the shape at hand */

static void print_shape(const FbsConv2dOptions* options, const FbsConv2dShape* s, bool sparse_in) {
  fprintf(stderr, "seed %llu: ", (unsigned long long)seed);
  fprintf(stderr,
          "path %s, method %s: batch %d, %dx%d, %d of %d channels%s -> %dx%d, %d of %d in groups of %d, kernel %dx%d, "
          "stride "
          "%dx%d, dilation %dx%d, pad %d %d, activation %d\n",
          fbs_path_name(options->path), fbs_method_name(options->method), s->batch, s->in_height, s->in_width,
          s->in_active, s->in_channels, sparse_in ? " (indexed)" : "", s->out_height, s->out_width, s->out_active,
          s->out_channels, s->group_size, s->kernel_height, s->kernel_width, s->stride_height, s->stride_width,
          s->dilation_height, s->dilation_width, s->pad_top, s->pad_left, (int)s->activation);
}

#define CHECK_SHAPE(condition, ...)                \
  do {                                             \
    if (!(condition)) {                            \
      print_shape(options, s, p->in_indices != 0); \
      CHECK(condition, __VA_ARGS__);               \
    }                                              \
  } while (0)

/* Activations and weights are integers from -4 to 4, so a product has the rms 20/3, and g stays below 2.5. F(4x4)
 * rounds its transformed filters, to at most 5e-5 of the outputs' rms where that was measured (docs/kernels.md); the
 * other methods compute with integers and halves, exactly. */
static double tolerance_of(const FbsConv2dShape* s, FbsMethod method) {
  return method == kFbsMethodWinograd4 ? 1e-4 * 2.5 * 20 / 3 * sqrt(9.0 * s->in_active) : kTolerance;
}

static void compare_channel(const Problem* p, const FbsConv2dOptions* options, const float* y, const float* expected,
                            int32_t n, int32_t i, int32_t j) {
  const FbsConv2dShape* s = &p->shape;
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  for (int64_t q = n * pixels; q < (n + 1) * pixels; q++) {
    const double got = y[q * s->out_active + i], want = expected[q * s->out_active + j];
    CHECK_SHAPE(fabs(got - want) <= kTolerance * fabs(want) + tolerance_of(s, options->method),
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
  double lowest_a = INFINITY, lowest_b = INFINITY; /* of the winners only one of the two has */
  for (int32_t i = 0, j = 0; i < k || j < k;) {
    if (i < k && j < k && a[i] == b[j]) {
      compare_channel(p, options, got->y, want->y, n, i++, j++);
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

static void test_options(const Problem* p, const Result* expected, const FbsConv2dOptions* options) {
  const FbsConv2dShape* s = &p->shape;
  Result first = run(p, options, 1);
  for (int32_t n = 0; n < s->batch; n++) compare_image(p, options, &first, expected, n);
  for (int32_t threads = 2; threads <= kPools; threads++) {
    Result other = run(p, options, threads);
    CHECK_SHAPE(memcmp(first.y, other.y, sizeof(float) * p->y_size) == 0 &&
                    memcmp(first.indices, other.indices, sizeof(int32_t) * (size_t)(s->batch * s->out_active)) == 0,
                "%d threads give another result than 1", threads);
    free_result(&other);
  }
  free_result(&first);
}

static void test_shape(const FbsConv2dShape* s, bool sparse_in) {
  char message[256];
  const char* refused = fbs_conv2d_check(s, message, sizeof message);
  if (refused != NULL) print_shape(&FBS_CONV2D_DEFAULTS, s, sparse_in);
  CHECK(refused == NULL, "%s", refused);
  Problem problem = problem_of(s, sparse_in);
  Result expected = run(&problem, &reference, 1);
  FbsConv2dOptions options[kMostOptions];
  const int32_t count = find_options(s, options);
  for (int32_t i = 0; i < count; i++) test_options(&problem, &expected, &options[i]);
  free_result(&expected);
  free_problem(&problem);
}

typedef struct {
  int32_t kernel_height, kernel_width, stride, dilation;
  bool same;
} Window;

/* Sets what follows from the input size and the window; false where VALID leaves no output. */
static bool set_window(FbsConv2dShape* s, const Window* w) {
  const int32_t reach_y = (w->kernel_height - 1) * w->dilation + 1, reach_x = (w->kernel_width - 1) * w->dilation + 1;
  s->kernel_height = w->kernel_height;
  s->kernel_width = w->kernel_width;
  s->stride_height = s->stride_width = w->stride;
  s->dilation_height = s->dilation_width = w->dilation;
  if (!w->same) {
    s->pad_top = s->pad_left = 0;
    s->out_height = (s->in_height - reach_y) / w->stride + 1;
    s->out_width = (s->in_width - reach_x) / w->stride + 1;
    return s->in_height >= reach_y && s->in_width >= reach_x;
  }
  s->out_height = (s->in_height + w->stride - 1) / w->stride;
  s->out_width = (s->in_width + w->stride - 1) / w->stride;
  const int32_t pad_y = (s->out_height - 1) * w->stride + reach_y - s->in_height;
  const int32_t pad_x = (s->out_width - 1) * w->stride + reach_x - s->in_width;
  s->pad_top = pad_y > 0 ? pad_y / 2 : 0;
  s->pad_left = pad_x > 0 ? pad_x / 2 : 0;
  return true;
}

static void test_windows(void) {
  static const Window windows[] = {
      {1, 1, 1, 1, true}, {3, 3, 1, 1, true}, {3, 3, 1, 1, false}, {3, 3, 2, 1, true},  {3, 3, 2, 1, false},
      {3, 3, 3, 1, true}, {5, 5, 1, 1, true}, {5, 5, 2, 1, true},  {7, 3, 1, 1, true},  {7, 3, 2, 1, true},
      {1, 1, 2, 1, true}, {3, 3, 1, 2, true}, {3, 3, 1, 2, false}, {3, 3, 2, 2, false}, {2, 4, 1, 3, true},
  };
  for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
    for (int32_t batch = 1; batch <= 3; batch++) {
      FbsConv2dShape s = {.batch = batch,
                          .in_height = 9,
                          .in_width = 7,
                          .in_channels = 6,
                          .in_active = 4,
                          .out_channels = 40,
                          .out_active = 20,
                          .group_size = 1,
                          .activation = (FbsActivation)(batch - 1)};
      CHECK(set_window(&s, &windows[w]), "window %zu does not fit", w);
      test_shape(&s, true);
    }
  }
}

/* k at the edges of one to five vectors of each width, over every size of the last pixel tile. */
static void test_tiles(void) {
  static const int32_t lanes[] = {4, 8, 16};
  const Window window = {3, 2, 1, 1, true};
  for (size_t l = 0; l < sizeof lanes / sizeof lanes[0]; l++) {
    for (int32_t vectors = 0; vectors <= 5; vectors++) {
      for (int32_t more = -1; more <= 1; more++) {
        const int32_t k = vectors * lanes[l] + more;
        if (k < 1) continue;
        for (int32_t out_channels = k; out_channels <= 2 * k + 1; out_channels += k + 1) {
          FbsConv2dShape s = {.batch = 1,
                              .in_height = 1 + k % 3,
                              .in_width = 1 + (k * 7) % 29,
                              .in_channels = 7,
                              .in_active = out_channels == k ? 7 : 3,
                              .out_channels = out_channels,
                              .out_active = k,
                              .group_size = 1,
                              .activation = kFbsActivationRelu};
          set_window(&s, &window);
          test_shape(&s, out_channels != k);
        }
      }
    }
  }
  const Window point = {1, 1, 1, 1, true};
  for (int32_t pixels = 1; pixels <= 40; pixels++) {
    for (int32_t k = 16; k <= 48; k += 16) {
      FbsConv2dShape s = {.batch = 1,
                          .in_height = 1,
                          .in_width = pixels,
                          .in_channels = 9,
                          .in_active = 5,
                          .out_channels = 50,
                          .out_active = k,
                          .group_size = 1,
                          .activation = kFbsActivationNone};
      set_window(&s, &point);
      test_shape(&s, true);
    }
  }
}

/* Maps of all sizes around one to three tiles of Winograd's convolution, with rows and columns of padding as the sides
 * have, and whole vectors of channels and parts of them. */
static void test_winograd(void) {
  static const int32_t channels[] = {1, 4, 15, 16, 17, 40};
  for (int32_t height = 1; height <= 9; height++) {
    for (int32_t width = 1; width <= 13; width += 1 + width % 3) {
      const int32_t n = height * 7 + width;
      FbsConv2dShape s = {.batch = 1 + n % 2,
                          .in_height = height,
                          .in_width = width,
                          .in_channels = channels[n % 6] + n % 2,
                          .in_active = channels[n % 6],
                          .out_channels = 48,
                          .out_active = channels[n / 2 % 6],
                          .group_size = 1,
                          .activation = (FbsActivation)(n % 3)};
      const Window same = {3, 3, 1, 1, true}, valid = {3, 3, 1, 1, false};
      set_window(&s, &same);
      test_shape(&s, true);
      s.pad_top = n % 4; /* more than SAME has, and another number of rows than the input */
      s.pad_left = n % 5;
      s.out_height = height + n % 3;
      s.out_width = width + n % 4;
      test_shape(&s, true);
      if (set_window(&s, &valid)) test_shape(&s, true);
    }
  }
}

/* Pixels at the edges of whole vectors of each width, where up to some odd ones are computed apart; few input channels
 * and such as fill a vector, all or one of them active. */
static void test_pixel_vectors(void) {
  static const int32_t lanes[] = {4, 8, 16}, channels[] = {1, 2, 3, 15, 16, 17, 33};
  static const Window windows[] = {{3, 2, 1, 1, true}, {1, 1, 2, 1, true}, {3, 3, 3, 1, true}, {2, 3, 1, 2, true}};
  int32_t n = 0;
  for (size_t l = 0; l < sizeof lanes / sizeof lanes[0]; l++) {
    for (int32_t vectors = 0; vectors <= 9; vectors++) {
      for (int32_t more = -1; more <= 4; more++, n++) {
        const int32_t pixels = vectors * lanes[l] + more;
        if (pixels < 1) continue;
        const Window* window = &windows[n % 4];
        const int32_t in_channels = channels[n % 7];
        const int32_t k = 1 + n % 19;
        FbsConv2dShape s = {.batch = 1 + n % 2,
                            .in_height = 1,
                            .in_width = pixels * window->stride,
                            .in_channels = in_channels,
                            .in_active = n % 3 == 0   ? in_channels
                                         : n % 3 == 1 ? 1
                                                      : (in_channels + 1) / 2,
                            .out_channels = k + n % 5 * 4,
                            .out_active = k,
                            .group_size = 1,
                            .activation = kFbsActivationRelu6};
        set_window(&s, window);
        test_shape(&s, n % 3 > 0);
      }
    }
  }
}

/* Groups of each vector's width and its multiples, from one group to all of them. */
static void test_groups(void) {
  static const int32_t sizes[] = {4, 8, 16, 32, 48};
  static const Window windows[] = {{3, 3, 1, 1, true}, {3, 3, 2, 1, true}, {1, 1, 1, 1, true}, {2, 3, 1, 2, true}};
  int32_t n = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    for (int32_t groups = 1; groups <= 6; groups++) {
      for (int32_t winning = 1; winning <= groups; winning++, n++) {
        FbsConv2dShape s = {.batch = 1 + n % 2,
                            .in_height = 1 + n % 7,
                            .in_width = 1 + n % 5,
                            .in_channels = 1 + n % 11,
                            .out_channels = groups * sizes[i],
                            .out_active = winning * sizes[i],
                            .group_size = sizes[i],
                            .activation = kFbsActivationRelu};
        s.in_active = n % 3 == 0 ? s.in_channels : 1 + s.in_channels / 2;
        set_window(&s, &windows[n % 4]);
        test_shape(&s, n % 3 > 0);
      }
    }
  }
}

/* More packed weights than one chunk holds, and a predictor so large that threads share it. */
static void test_large(void) {
  const Window window = {3, 3, 1, 1, true};
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 3,
                      .in_width = 3,
                      .in_channels = 200,
                      .in_active = 190,
                      .out_channels = 360,
                      .out_active = 200,
                      .group_size = 1,
                      .activation = kFbsActivationRelu};
  set_window(&s, &window);
  test_shape(&s, true);
}

static void test_random(int32_t count) {
  for (int32_t i = 0; i < count; i++, seed++) {
    random_state = seed;
    const Window any = {random_between(1, 4), random_between(1, 4), random_between(1, 3), random_between(1, 2),
                        random_between(0, 1)};
    const Window window = random_between(0, 2) > 0 ? any : (Window){3, 3, 1, 1, any.same};
    const int32_t group = random_between(0, 2) > 0 ? 1 : random_between(2, 5);
    const int32_t groups = random_between(1, random_between(0, 3) > 0 ? 20 : 90) / group + 1;
    FbsConv2dShape s = {.batch = random_between(1, 3),
                        .in_height = random_between(1, 9),
                        .in_width = random_between(1, 9),
                        .in_channels = random_between(1, 20),
                        .out_channels = groups * group,
                        .out_active = random_between(1, groups) * group,
                        .group_size = group,
                        .activation = (FbsActivation)random_between(0, 2)};
    s.in_active = random_between(1, s.in_channels);
    const bool sparse_in = s.in_active < s.in_channels || random_between(0, 1);
    if (set_window(&s, &window)) test_shape(&s, sparse_in);
  }
}

/* Indices outside the weights are refused, double ones are safe. */
static void test_indices(void) {
  const Window window = {3, 3, 1, 1, true};
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 4,
                      .in_width = 4,
                      .in_channels = 8,
                      .in_active = 4,
                      .out_channels = 20,
                      .out_active = 9,
                      .group_size = 1};
  set_window(&s, &window);
  Problem p = problem_of(&s, true);
  static const int32_t outside[] = {-1, 8, INT32_MIN, INT32_MAX};
  FbsConv2dOptions options[kMostOptions + 1] = {reference};
  const int32_t count = 1 + find_options(&s, options + 1);
  for (int32_t n = 0; n < count; n++) {
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
      const int32_t saved = p.in_indices[7];
      p.in_indices[7] = outside[i];
      FbsConv2d* plan = fbs_conv2d_create(&s, &p.weights, &options[n]);
      void* workspace = aligned_alloc(64, (fbs_conv2d_workspace_size(plan, 1) + 63) / 64 * 64);
      float* y = NEW(float, p.y_size);
      int32_t winners[18];
      CHECK(fbs_conv2d_run(plan, pools[0], p.x, p.in_indices, y, winners, workspace) == -1, "index %d accepted",
            outside[i]);
      p.in_indices[7] = saved;
      free(y);
      free(workspace);
      fbs_conv2d_destroy(plan);
    }
  }
  for (int32_t i = 0; i < s.batch * s.in_active; i++) p.in_indices[i] = 7;
  for (int32_t n = 0; n < count; n++) {
    Result result = run(&p, &options[n], 2);
    free_result(&result);
  }
  free_problem(&p);
}

/* Infinite and NaN activations: always k distinct winners in order, those of the reference where all gates are NaN. */
static void test_not_finite(void) {
  const Window window = {3, 3, 1, 1, true};
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 5,
                      .in_width = 5,
                      .in_channels = 8,
                      .in_active = 8,
                      .out_channels = 40,
                      .out_active = 12,
                      .group_size = 2,
                      .activation = kFbsActivationRelu};
  set_window(&s, &window);
  const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    Problem p = problem_of(&s, false);
    p.x[17] = values[v]; /* in the first image only */
    Result expected = run(&p, &reference, 1);
    FbsConv2dOptions options[kMostOptions];
    const int32_t count = find_options(&s, options);
    for (int32_t n = 0; n < count; n++) {
      Result result = run(&p, &options[n], 2);
      for (int32_t i = 0; i < s.out_active; i++) {
        const int32_t index = result.indices[i];
        CHECK(index >= (i > 0 ? result.indices[i - 1] + 1 : 0) && index < s.out_channels, "index %d", index);
        CHECK(!isnan(values[v]) || index == expected.indices[i], "index %d, expected %d", index, expected.indices[i]);
      }
      compare_image(&p, &options[n], &result, &expected, 1);
      if (isnan(values[v])) CHECK(isnan(result.y[0]) && isnan(expected.y[0]), "NaN was lost: %g", result.y[0]);
      free_result(&result);
    }
    free_result(&expected);
    free_problem(&p);
  }
}

int main(int argc, char** argv) {
  CHECK(argc == 3, "usage: %s SEED COUNT", argv[0]);
  seed = random_state = strtoull(argv[1], NULL, 10);
  for (int32_t i = 0; i < kPools; i++) {
    pools[i] = fbs_threads_create(i + 1);
    CHECK(pools[i] != NULL, "no pool of %d threads", i + 1);
  }
  test_windows();
  test_tiles();
  test_winograd();
  test_pixel_vectors();
  test_groups();
  test_large();
  test_indices();
  test_not_finite();
  test_random(atoi(argv[2]));
  for (int32_t i = 0; i < kPools; i++) fbs_threads_destroy(pools[i]);
  printf("seed %s, %s random shapes, paths:", argv[1], argv[2]);
  for (FbsPath path = kFbsPathAuto; path <= kFbsPathNeon; path++) {
    if (fbs_path_available(path)) printf(" %s", fbs_path_name(path));
  }
  printf("\n");
  return 0;
}
