/* The int8 convolution on every kind of kernels of this CPU against the reference: a table of shapes, then random ones.
 *
 *   test_conv2d_int8 SEED COUNT
 *
 * The random shape that fails comes first with the seed that is printed with it.
 */
#include "convolutions_int8.h"

/* ---- Shapes ---- */

static void test_windows(void) {
  static const Window windows[] = {
      {1, 1, 1, 1, true},  {3, 3, 1, 1, true},  {3, 3, 1, 1, false}, {3, 3, 2, 1, true},  {3, 3, 2, 1, false},
      {3, 3, 3, 1, true},  {5, 5, 1, 1, true},  {5, 5, 2, 1, true},  {7, 3, 1, 1, true},  {7, 3, 2, 1, true},
      {1, 1, 2, 1, true},  {1, 1, 3, 1, false}, {1, 3, 2, 1, true},  {3, 1, 2, 1, true},  {3, 3, 1, 2, true},
      {3, 3, 1, 2, false}, {3, 3, 2, 2, false}, {2, 4, 1, 3, true},  {2, 2, 3, 1, false},
  };
  for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
    for (Input input = 0; input < kInputs; input++) {
      for (int32_t in_active = 4; in_active <= 6; in_active++) { /* 6 is dense */
        FbsConv2dShape s = {.batch = 1 + (int32_t)input % 2,
                            .in_height = 9,
                            .in_width = 7,
                            .in_channels = 6,
                            .in_active = in_active,
                            .out_channels = 40,
                            .out_active = in_active == 5 ? 40 : 20,
                            .group_size = in_active == 4 ? 1 : 4,
                            .activation = (FbsActivation)(input % 3)};
        CHECK(set_window(&s, &windows[w]), "window %zu does not fit", w);
        test_shape(&s, in_active < 6, input);
        s.pad_top += 3; /* more than SAME has, and more rows than the input */
        s.pad_left += 2;
        s.out_height += 4;
        s.out_width += 3;
        test_shape(&s, in_active < 6, input);
      }
    }
  }
}

/* k at the edges of one to nine vectors of each width, over every size of the last pixel tile. */
static void test_tiles(void) {
  static const int32_t lanes[] = {4, 8, 16};
  for (size_t l = 0; l < sizeof lanes / sizeof lanes[0]; l++) {
    for (int32_t vectors = 0; vectors <= 9; vectors++) {
      for (int32_t more = -1; more <= 1; more++) {
        const int32_t k = vectors * lanes[l] + more;
        if (k < 1) continue;
        for (int32_t out_channels = k; out_channels <= 7 * k + 1; out_channels += 2 * k + more + 1) {
          const FbsConv2dShape s = tile_shape(k, out_channels);
          test_shape(&s, out_channels != k, k % 2 ? kSigned : kPositive);
        }
      }
    }
  }
  for (int32_t pixels = 1; pixels <= 40; pixels++) {
    for (int32_t k = 16; k <= 64; k += 16) {
      const FbsConv2dShape s = row_shape(pixels, k, 66);
      test_shape(&s, true, kSigned);
    }
  }
}

/* Whole groups of winners, of each vector's width and its multiples. */
static void test_groups(void) {
  static const int32_t sizes[] = {4, 8, 16, 32, 48};
  int32_t n = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    for (int32_t groups = 1; groups <= 5; groups++) {
      for (int32_t winning = 1; winning <= groups; winning++, n++) {
        FbsConv2dShape s = group_shape(n, sizes[i], groups, winning);
        test_shape(&s, n % 3 > 0, n % 2 ? kSigned : kPositive);
        s.in_channels = 4 * (1 + n % 7); /* in quads */
        s.in_active = n % 3 == 0 ? s.in_channels : 4 * (1 + n % 7 / 2);
        for (Input input = kSigned; input <= kPositive; input++) test_shape(&s, n % 3 > 0, input);
      }
    }
  }
}

/* Rows of weights of one to many lines of 64 columns, whole ones and not, whose winners lie near each other or far
 * apart; more quads than are packed one after the other. */
static void test_wide(void) {
  static const int32_t widths[] = {63, 64, 65, 128, 192, 255, 256, 257, 320, 513, 640, 1600};
  static const int32_t active[] = {1, 2, 16, 17, 31, 48, 63};
  static const Window windows[] = {{1, 1, 1, 1, true}, {3, 3, 1, 1, true}};
  int32_t n = 0;
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
    for (size_t j = 0; j < sizeof active / sizeof active[0]; j++, n++) {
      FbsConv2dShape s = {.batch = 2,
                          .in_height = 2,
                          .in_width = 3,
                          .in_channels = 1 + n % 20,
                          .out_channels = widths[i],
                          .out_active = active[j],
                          .group_size = 1,
                          .activation = kFbsActivationNone};
      s.in_active = 1 + n % 20 / (1 + n % 2);
      set_window(&s, &windows[n % 2]);
      test_shape(&s, true, n % 3 ? kSigned : kPositive);
    }
  }
}

/* Maps of odd and even sizes, every size of the last tile, k at the edges of one to five vectors, groups. */
static void test_max_pool(void) {
  static const Window windows[] = {{3, 3, 1, 1, true}, {1, 1, 1, 1, true}, {3, 3, 2, 1, false}, {2, 3, 1, 2, true}};
  static const int32_t lanes[] = {4, 8, 16};
  int32_t n = 0;
  for (int32_t height = 2; height <= 7; height++) {
    for (int32_t width = 2; width <= 13; width++, n++) {
      FbsConv2dShape s = {.batch = 1 + n % 2,
                          .in_height = height,
                          .in_width = width,
                          .in_channels = 6,
                          .in_active = n % 3 == 0 ? 6 : 4,
                          .out_channels = 64,
                          .out_active = n % 5 == 0 ? 64 : 16,
                          .group_size = n % 4 == 0 ? 16 : 1,
                          .activation = (FbsActivation)(n % 3),
                          .max_pool = 1};
      if (!set_window(&s, &windows[n % 4]) || s.out_height < 2 || s.out_width < 2) continue;
      test_shape(&s, n % 3 > 0, (Input)(n % kInputs));
    }
  }
  for (size_t l = 0; l < sizeof lanes / sizeof lanes[0]; l++) {
    for (int32_t vectors = 1; vectors <= 5; vectors++) {
      for (int32_t more = -1; more <= 1; more++, n++) {
        FbsConv2dShape s = {.batch = 1,
                            .in_height = 2 + n % 6,
                            .in_width = 5 + n % 4,
                            .in_channels = 5,
                            .in_active = 3,
                            .out_channels = 100,
                            .out_active = vectors * lanes[l] + more,
                            .group_size = 1,
                            .activation = (FbsActivation)(n % 3),
                            .max_pool = 1};
        set_window(&s, &windows[n % 2]);
        test_shape(&s, true, n % 2 ? kSigned : kPositive);
      }
    }
  }
}

/* More packed weights than one chunk holds, and a predictor so large that threads share it. */
static void test_large(int32_t max_pool) {
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 2,
                      .in_width = 2,
                      .in_channels = 620,
                      .in_active = 600,
                      .out_channels = 360,
                      .out_active = 260,
                      .group_size = 1,
                      .activation = kFbsActivationRelu,
                      .max_pool = max_pool};
  set_window(&s, &same_3x3);
  test_shape(&s, true, kSigned);
}

static void test_random(int32_t count) {
  for (int32_t i = 0; i < count; i++, seed++) {
    FbsConv2dShape s;
    bool sparse_in;
    if (!random_shape(&s, &sparse_in)) continue;
    const Input input = random_between(0, 2) > 0 ? kSigned : (Input)random_between(0, kInputs - 1);
    s.max_pool = s.out_height > 1 && s.out_width > 1 && random_between(0, 2) == 0;
    test_shape(&s, sparse_in, input);
  }
}

/* ---- Everything else ---- */

/* By the rules of conv2d_int8.h, written with doubles. */
static int32_t quantised(float x, float low, float high) {
  const float scale = (float)(((double)high - (double)low) / 255);
  const float s = scale > 0 && 1 / scale <= 3.4028235e38f ? scale : 1;
  const double zero = fmin(rint((double)(-low / s)), 255);
  const float inverse = 1 / s;
  return isnan(x) ? (int32_t)zero : (int32_t)fmax(0, fmin(255, rint((double)(x * inverse)) + zero));
}

/* Every value of quantise, next to values that round either way, infinite and NaN, in rows of all lengths. */
static void test_quantise(void) {
  static const float ranges[][2] = {{0, 255},        {-128, 127}, {-255, 0},   {-1, 2},       {0, 0},
                                    {-3e38f, 3e38f}, {0, 1e-36f}, {0, 1e-40f}, {-0.1f, 6.3f}, {-1e-36f, 7e-37f}};
  static const float special[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1e-45f, 3.4e38f, -3.4e38f};
  const FbsInt8Kernels* kernels[8];
  const int32_t count = find_kernels(kernels);
  for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++) {
    const float low = ranges[r][0], high = ranges[r][1];
    const FbsQuantisation q = fbs_quantisation_of((FbsRange){low, high});
    for (int32_t n = 0; n <= 200; n++) {
      float* x = NEW(float, n);
      uint8_t* got = NEW(uint8_t, n);
      for (int32_t i = 0; i < n; i++) {
        const int32_t kind = random_between(0, 3);
        const float step = kind == 0 ? 0.5f : kind == 1 ? 0.49999f : kind == 2 ? 0.50001f : 1;
        x[i] = q.scale * ((float)(random_between(0, 255) - q.zero) + step);
        x[i] = x[i] < low ? low : x[i] > high ? high : x[i];
        if (random_between(0, 9) == 0) x[i] = special[random_between(0, 7)];
      }
      for (int32_t k = 0; k < count; k++) {
        kernels[k]->quantise(x, n, q.inverse, q.zero, got);
        for (int32_t i = 0; i < n; i++) {
          const int32_t value = (got[i] + kernels[k]->origin) & 255, want = quantised(x[i], low, high);
          CHECK(value == want, "%s, range %g to %g: %g becomes %d, not %d", kernels[k]->name, low, high, x[i], value,
                want);
        }
      }
      free(got);
      free(x);
    }
  }
}

/* NaN and infinities make g NaN or infinite, and y, pooled or not; the winners are those of the reference where all g
 * are NaN, and the other image is not touched. */
static void test_not_finite(int32_t max_pool) {
  FbsConv2dShape s = dense_shape();
  s.max_pool = max_pool;
  const float values[] = {NAN, -NAN, INFINITY, -INFINITY};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    Problem p = problem_of(&s, false, kSigned);
    p.x[17] = values[v]; /* in the first image only */
    const size_t half = y_size_of(&s) / 2;
    Result expected = run(&p, kFbsPathReference, pools[0]);
    for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
      if (!fbs_path_available(path)) continue;
      Result result = run(&p, path, pools[1]);
      for (size_t i = 0; i < half; i++) { /* an infinite g: 0 * infinity may be NaN or not */
        CHECK(isnan(result.y[i]) == isnan(expected.y[i]), "%s: %g, expected %g", fbs_path_name(path), result.y[i],
              expected.y[i]);
      }
      CHECK(memcmp(result.indices, expected.indices, sizeof(int32_t) * 24) == 0, "other winners");
      CHECK(memcmp(result.y + half, expected.y + half, sizeof(float) * half) == 0, "the other image has changed");
      free_result(&result);
    }
    free_result(&expected);
    /* With a range and a gate that are finite, the bytes count. */
    expected = new_result(&s);
    for (int32_t i = 0; i < s.batch * s.out_active; i++) expected.indices[i] = i % s.out_active + 7;
    Result plain = run_gemm(&p, fbs_int8_kernels_plain, pools[0], &expected);
    CHECK(!isnan(plain.y[0]), "the sums became NaN");
    test_exactly(&p, &plain);
    free_result(&plain);
    free_result(&expected);
    free_problem(&p);
  }
}

/* Indices outside the weights are refused, double ones are safe. */
static void test_indices(void) {
  const FbsConv2dShape s = small_shape();
  Problem p = problem_of(&s, true, kSigned);
  static const int32_t outside[] = {-1, 8, INT32_MIN, INT32_MAX};
  for (FbsPath path = kFbsPathReference; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
      const int32_t saved = p.in_indices[7];
      p.in_indices[7] = outside[i];
      Result result = new_result(&s);
      CHECK(run_into(&p, path, pools[0], &result) == -1, "index %d accepted", outside[i]);
      p.in_indices[7] = saved;
      free_result(&result);
    }
  }
  for (int32_t i = 0; i < s.batch * s.in_active; i++) p.in_indices[i] = 7;
  Result expected = run(&p, kFbsPathReference, pools[0]);
  test_paths(&p, &expected, 0);
  free_result(&expected);
  free_problem(&p);
}

static void expect_refused(const Problem* p, const char* part) {
  char message[256];
  expect_refusal(fbs_conv2d_int8_check(&p->shape, &p->weights, message, sizeof message), message, part);
}

static void test_check(void) {
  FbsConv2dShape valid = small_shape();
  valid.batch = 1;
  Problem p = problem_of(&valid, true, kSigned);
  FbsConv2dShape* s = &p.shape;
  char message[256];
  const char* refused = fbs_conv2d_int8_check(s, &p.weights, message, sizeof message);
  CHECK(refused == NULL, "%s", refused);
  ((int8_t*)p.weights.weights)[8 * 9 * 20 - 1] = -128;
  expect_refused(&p, "from -127 to 127, got -128 at element 1439");
  s->stride_height = 0;
  expect_refused(&p, "stride_height must be at least 1");
  s->stride_height = 1;
  s->in_channels = 65000 / 9 + 1;
  expect_refused(&p, "a window with int8 weights must have at most 65000");
  s->in_channels = 8;
  s->dilation_height = s->dilation_width = 1 << 20;
  expect_refused(&p, "the padded int8 image must have at most");
  s->dilation_height = s->dilation_width = 1;
  for (int32_t max_pool = -1; max_pool <= 2; max_pool += 3) {
    s->max_pool = max_pool;
    expect_refused(&p, "max_pool must be from 0 to 1, got");
  }
  s->max_pool = 1;
  s->out_height = 1;
  expect_refused(&p, "max pooling of 2x2 needs 2 rows and columns, got 1 and 4");
  s->out_height = 4;
  s->out_width = 1;
  expect_refused(&p, "max pooling of 2x2 needs 2 rows and columns, got 4 and 1");
  free_problem(&p);
}

/* The longest sums with the largest terms do not overflow. */
static void test_extremes(void) {
  const Window window = {1, 1, 1, 1, true};
  FbsConv2dShape s = {.batch = 1,
                      .in_height = 1,
                      .in_width = 2,
                      .in_channels = 65000,
                      .in_active = 65000,
                      .out_channels = 20,
                      .out_active = 17,
                      .group_size = 1};
  set_window(&s, &window);
  Problem p = problem_of(&s, false, kZero);
  for (int32_t sign = -1; sign <= 1; sign += 2) {
    for (size_t i = 0; i < 65000 * 20; i++) ((int8_t*)p.weights.weights)[i] = (int8_t)(i % 2 ? 127 : -127);
    for (size_t i = 0; i < x_size_of(&s); i++) p.x[i] = (float)sign * 1.5f;
    Result expected = run(&p, kFbsPathReference, pools[0]);
    test_exactly(&p, &expected);
    free_result(&expected);
  }
  free_problem(&p);
}

int main(int argc, char** argv) {
  const int32_t shapes = parse_arguments(argc, argv);
  seed = random_state;
  create_pools();
  test_quantise();
  test_windows();
  test_tiles();
  test_groups();
  test_wide();
  test_max_pool();
  for (int32_t max_pool = 0; max_pool <= 1; max_pool++) {
    test_large(max_pool);
    test_not_finite(max_pool);
  }
  test_extremes();
  test_indices();
  test_check();
  test_random(shapes);
  destroy_pools();
  printf("seed %s, %d random shapes, kernels:", argv[1], shapes);
  const FbsInt8Kernels* kernels[8];
  const int32_t count = find_kernels(kernels);
  for (int32_t i = 0; i < count; i++) printf(" %s", kernels[i]->name);
  printf("\n");
  return 0;
}
