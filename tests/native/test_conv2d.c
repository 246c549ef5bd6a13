/* Every method on every path of this CPU against the reference: a table of shapes at the edges of the tiles, then
 * random shapes.
 *
 *   test_conv2d SEED COUNT
 *
 * The random shape that fails comes first with the seed that is printed with it.
 */
#include "convolutions.h"

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

/* k at the edges of one to five vectors of each width, over every size of the last pixel tile; with the gate and with g
 * as an operand. */
static void test_tiles(void) {
  static const int32_t lanes[] = {4, 8, 16};
  for (size_t l = 0; l < sizeof lanes / sizeof lanes[0]; l++) {
    for (int32_t vectors = 0; vectors <= 5; vectors++) {
      for (int32_t more = -1; more <= 1; more++) {
        const int32_t k = vectors * lanes[l] + more;
        if (k < 1) continue;
        for (int32_t out_channels = k; out_channels <= 2 * k + 1; out_channels += k + 1) {
          const FbsConv2dShape s = tile_shape(k, out_channels);
          test_shape(&s, out_channels != k);
          if (out_channels != k) test_gate(&s, true, true);
        }
      }
    }
  }
  for (int32_t pixels = 1; pixels <= 40; pixels++) {
    for (int32_t k = 16; k <= 48; k += 16) {
      const FbsConv2dShape s = row_shape(pixels, k, 50);
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
      const Window valid = {3, 3, 1, 1, false};
      set_window(&s, &same_3x3);
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
  int32_t n = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    for (int32_t groups = 1; groups <= 6; groups++) {
      for (int32_t winning = 1; winning <= groups; winning++, n++) {
        const FbsConv2dShape s = group_shape(n, sizes[i], groups, winning);
        test_shape(&s, n % 3 > 0);
      }
    }
  }
}

/* More packed weights than one chunk holds, and a predictor so large that threads share it. */
static void test_large(void) {
  FbsConv2dShape s = {.batch = 2,
                      .in_height = 3,
                      .in_width = 3,
                      .in_channels = 200,
                      .in_active = 190,
                      .out_channels = 360,
                      .out_active = 200,
                      .group_size = 1,
                      .activation = kFbsActivationRelu};
  set_window(&s, &same_3x3);
  test_shape(&s, true);
}

/* So many channels that a block of tiles does not hold all of them, with more winners than tiles and with fewer. */
static void test_winograd_blocks(void) {
  for (int32_t k = 12; k <= 108; k += 48) {
    FbsConv2dShape s = {.batch = 1,
                        .in_height = 15,
                        .in_width = 22,
                        .in_channels = 110,
                        .in_active = 100,
                        .out_channels = 110,
                        .out_active = k,
                        .group_size = 1,
                        .activation = kFbsActivationRelu};
    set_window(&s, &same_3x3);
    test_shape(&s, true);
  }
}

/* Shapes that pass the check, for which a method would take GiBs, are left to gemm: 13 GiB of transformed filters at
 * least; few filters, but rows of windows of hundreds of MiB for each thread; a copy of 1.6 GiB of weights. */
static void test_declined(void) {
  static const struct {
    FbsMethod method;
    int32_t size, in_channels, out_channels;
  } cases[] = {
      {kFbsMethodWinograd2, 3, 15008, 15008}, {kFbsMethodWinograd4, 3, 15008, 15008},
      {kFbsMethodWinograd2, 64, 400000, 16},  {kFbsMethodWinograd4, 64, 150000, 16},
      {kFbsMethodInPlace, 3, 6912, 6912},     {kFbsMethodGrouped, 3, 6912, 6912},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    FbsConv2dShape s = {.batch = 1,
                        .in_height = cases[i].size,
                        .in_width = cases[i].size,
                        .in_channels = cases[i].in_channels,
                        .in_active = cases[i].in_channels,
                        .out_channels = cases[i].out_channels,
                        .out_active = cases[i].out_channels,
                        .group_size = 16};
    set_window(&s, &same_3x3);
    char message[256];
    CHECK(fbs_conv2d_check(&s, message, sizeof message) == NULL, "%s", message);
    const FbsConv2dOptions options = {kFbsPathPlain, cases[i].method, 4};
    CHECK(fbs_select_method(&s, fbs_select_kernels(kFbsPathPlain), &options) == kFbsMethodGemm,
          "case %zu: %s was not declined", i, fbs_method_name(cases[i].method));
  }
}

/* What kFbsMethodAuto chooses where the choice is clear, by the largest Winograd tile that it may. */
static void test_selection(void) {
  static const struct {
    int32_t size, depth, group;
    Window window;
    FbsMethod chosen[3]; /* options.winograd = 0, 2, 4 */
  } cases[] = {
      {28, 64, 1, {3, 3, 1, 1, true}, {kFbsMethodGemm, kFbsMethodWinograd2, kFbsMethodWinograd4}},
      {28, 64, 16, {3, 3, 1, 1, true}, {kFbsMethodGrouped, kFbsMethodWinograd2, kFbsMethodWinograd4}},
      {28, 64, 1, {3, 3, 2, 1, true}, {kFbsMethodGemm, kFbsMethodGemm, kFbsMethodGemm}},
      {28, 64, 1, {3, 3, 1, 2, true}, {kFbsMethodGemm, kFbsMethodGemm, kFbsMethodGemm}},
      {28, 64, 1, {1, 1, 1, 1, true}, {kFbsMethodGemm, kFbsMethodGemm, kFbsMethodGemm}},
      {28, 3, 1, {3, 3, 1, 1, true}, {kFbsMethodGemm, kFbsMethodGemm, kFbsMethodGemm}},
      {4, 64, 1, {3, 3, 1, 1, true}, {kFbsMethodGemm, kFbsMethodGemm, kFbsMethodGemm}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    FbsConv2dShape s = {.batch = 1,
                        .in_height = cases[i].size,
                        .in_width = cases[i].size,
                        .in_channels = 128,
                        .in_active = cases[i].depth,
                        .out_channels = 128,
                        .out_active = 64,
                        .group_size = cases[i].group};
    set_window(&s, &cases[i].window);
    for (int32_t largest = 0; largest <= 4; largest += 2) {
      const FbsConv2dOptions options = {kFbsPathPlain, kFbsMethodAuto, largest};
      const FbsMethod method = fbs_select_method(&s, fbs_select_kernels(kFbsPathPlain), &options);
      CHECK(method == cases[i].chosen[largest / 2], "case %zu, tiles up to %d: %s", i, largest,
            fbs_method_name(method));
    }
  }
}

/* As many threads as a large machine has, and more than there are tiles or panels: the same result, within the
 * workspace. */
static void test_many_threads(void) {
  FbsThreads* threads = fbs_threads_create(67);
  CHECK(threads != NULL, "no pool of 67 threads");
  for (int32_t size = 2; size <= 23; size += 21) {
    FbsConv2dShape s = {.batch = 1,
                        .in_height = size,
                        .in_width = size,
                        .in_channels = 20,
                        .in_active = 9,
                        .out_channels = 96,
                        .out_active = 80,
                        .group_size = 16,
                        .activation = kFbsActivationRelu};
    set_window(&s, &same_3x3);
    Problem p = problem_of(&s, true);
    FbsConv2dOptions options[kMostOptions];
    const int32_t count = find_options(&s, options);
    for (int32_t i = 0; i < count; i++) {
      Result first = run(&p, &options[i], pools[0]);
      compare_threads(&p, &options[i], &first, threads);
      free_result(&first);
    }
    free_problem(&p);
  }
  fbs_threads_destroy(threads);
}

static void test_random(int32_t count) {
  for (int32_t i = 0; i < count; i++, seed++) {
    FbsConv2dShape s;
    bool sparse_in;
    if (random_shape(&s, &sparse_in)) test_gate(&s, sparse_in, random_between(0, 3) == 0);
  }
}

/* Indices outside the weights are refused, double ones are safe. */
static void test_indices(void) {
  const FbsConv2dShape s = small_shape();
  Problem p = problem_of(&s, true);
  static const int32_t outside[] = {-1, 8, INT32_MIN, INT32_MAX};
  FbsConv2dOptions options[kMostOptions + 1] = {reference};
  const int32_t count = 1 + find_options(&s, options + 1);
  for (int32_t n = 0; n < count; n++) {
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
      const int32_t saved = p.in_indices[7];
      p.in_indices[7] = outside[i];
      Result result = new_result(&s);
      CHECK(run_into(&p, &options[n], pools[0], &result) == -1, "index %d accepted", outside[i]);
      p.in_indices[7] = saved;
      free_result(&result);
    }
  }
  for (int32_t i = 0; i < s.batch * s.in_active; i++) p.in_indices[i] = 7;
  for (int32_t n = 0; n < count; n++) {
    Result result = run(&p, &options[n], pools[1]);
    free_result(&result);
  }
  free_problem(&p);
}

/* Infinite and NaN activations: always k distinct winners in order, those of the reference where all gates are NaN. */
static void test_not_finite(void) {
  const FbsConv2dShape s = dense_shape();
  const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    Problem p = problem_of(&s, false);
    p.x[17] = values[v]; /* in the first image only */
    Result expected = run(&p, &reference, pools[0]);
    FbsConv2dOptions options[kMostOptions];
    const int32_t count = find_options(&s, options);
    for (int32_t n = 0; n < count; n++) {
      Result result = run(&p, &options[n], pools[1]);
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

/* An operand g with NaN and infinities: NaN wins where nothing else is left, as in the reference. */
static void test_given_not_finite(void) {
  const FbsConv2dShape s = dense_shape();
  const float values[] = {NAN, -NAN, INFINITY, -INFINITY, -0.0f};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    for (int32_t count = 1; count <= s.out_channels; count += 13) {
      Problem p = problem_of(&s, false);
      give_gates(&p);
      for (int32_t i = 0; i < count; i++) p.g[i] = values[v]; /* in the first image only */
      Result expected = run(&p, &reference, pools[0]);
      FbsConv2dOptions options[kMostOptions];
      const int32_t found = find_options(&s, options);
      for (int32_t n = 0; n < found; n++) {
        Result result = run(&p, &options[n], pools[1]);
        for (int32_t i = 0; i < s.out_active; i++) {
          CHECK(result.indices[i] == expected.indices[i], "%g: index %d", values[v], result.indices[i]);
          if (!isnan(values[v])) continue; /* 0 * infinity is NaN, but Winograd's 0 may be a rounding's */
          CHECK(isnan(result.y[i]) == isnan(expected.y[i]), "%g, expected %g", result.y[i], expected.y[i]);
        }
        compare_image(&p, &options[n], &result, &expected, 1);
        free_result(&result);
      }
      free_result(&expected);
      free_problem(&p);
    }
  }
}

int main(int argc, char** argv) {
  const int32_t count = parse_arguments(argc, argv);
  seed = random_state;
  create_pools();
  test_windows();
  test_tiles();
  test_winograd();
  test_pixel_vectors();
  test_groups();
  test_large();
  test_winograd_blocks();
  test_declined();
  test_selection();
  test_many_threads();
  test_indices();
  test_not_finite();
  test_given_not_finite();
  test_random(count);
  destroy_pools();
  printf("seed %s, %d random shapes, paths:", argv[1], count);
  for (FbsPath path = kFbsPathAuto; path < kFbsPaths; path++) {
    if (fbs_path_available(path)) printf(" %s", fbs_path_name(path));
  }
  printf("\n");
  return 0;
}
