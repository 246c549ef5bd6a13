/* The depthwise convolution of each path of this CPU against the reference, on any number of threads, and the reference
 * against its definition on a dense image. Usage: test_depthwise SEED COUNT */
#include <stddef.h>

#include "depthwise_convolutions.h"

static bool set_outputs(FbsDepthwiseShape* s, bool same) {
  return set_axis(s->in_height, s->kernel_height, s->stride_height, s->dilation_height, same, &s->out_height,
                  &s->pad_top) &&
         set_axis(s->in_width, s->kernel_width, s->stride_width, s->dilation_width, same, &s->out_width, &s->pad_left);
}

/* As set_window sets a convolution's. */
static bool set_square(FbsDepthwiseShape* s, int32_t kernel, int32_t stride, bool same) {
  s->kernel_height = s->kernel_width = kernel;
  s->stride_height = s->stride_width = stride;
  s->dilation_height = s->dilation_width = 1;
  return set_outputs(s, same);
}

/* Channels at the edges of the vectors of each width, over every size of tile. */
static void test_tiles(void) {
  static const int32_t actives[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70};
  for (int32_t kernel = 3; kernel <= 5; kernel += 2) {
    for (int32_t stride = 1; stride <= 2; stride++) {
      for (int32_t width = 1; width <= 20; width++) {
        FbsDepthwiseShape s = {.batch = 1 + width % 2,
                               .in_height = 1 + width % 7,
                               .in_width = width,
                               .active = actives[random_between(0, sizeof actives / sizeof actives[0] - 1)],
                               .activation = (FbsActivation)(width % 3)};
        s.channels = s.active + width % 3 * s.active;
        for (int same = 0; same < 2; same++) {
          if (set_square(&s, kernel, stride, same)) test_shape(&s);
        }
      }
    }
  }
}

static void test_random_shape(void) {
  const bool usual = random_between(0, 1) == 0;
  FbsDepthwiseShape s = {.batch = random_between(1, 3),
                         .in_height = random_between(1, 12),
                         .in_width = random_between(1, 24),
                         .active = random_between(1, 80),
                         .kernel_height = usual ? 3 + 2 * random_between(0, 1) : random_between(1, 7),
                         .stride_height = random_between(1, usual ? 2 : 4),
                         .dilation_height = usual ? 1 : random_between(1, 3),
                         .activation = (FbsActivation)random_between(0, 2)};
  s.channels = s.active + random_between(0, 2 * s.active);
  s.kernel_width = usual ? s.kernel_height : random_between(1, 7);
  s.stride_width = usual ? s.stride_height : random_between(1, 4);
  s.dilation_width = usual ? 1 : random_between(1, 3);
  if (!set_outputs(&s, random_between(0, 1) == 0)) return;
  if (random_between(0, 9) == 0) { /* more zeros than TensorFlow knows: windows beyond the input on either side */
    s.pad_top = random_between(0, 20);
    s.pad_left = random_between(0, 20);
    s.out_height = random_between(1, 20);
    s.out_width = random_between(1, 40);
  }
  test_shape(&s);
}

/* A window that holds no NaN gives none, not at the image's edge either; bias alone where it holds nothing. */
static void test_special_values(void) {
  FbsDepthwiseShape s = {
      .batch = 1, .in_height = 9, .in_width = 30, .channels = 50, .active = 33, .activation = kFbsActivationNone};
  set_square(&s, 3, 1, true);
  Operands operands = new_operands(&s);
  float* y = NEW(float, outputs_of(&s));
  operands.x[(4 * 30 + 11) * 33 + 32] = NAN;
  for (FbsPath path = kFbsPathAuto; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    CHECK(run(&s, path, &operands, y, 2) == 0, "refused");
    for (int32_t i = 0; i < 9 * 30 * 33; i++) {
      const int32_t row = i / 33 / 30, column = i / 33 % 30;
      const bool reached = i % 33 == 32 && abs(row - 4) <= 1 && abs(column - 11) <= 1;
      CHECK((isnan(y[i]) != 0) == reached, "%s: y[%d] is %g", fbs_path_name(path), i, (double)y[i]);
    }
  }
  free(y);
  free_operands(&operands);
}

static void test_hostile_indices(void) {
  FbsDepthwiseShape s = {.batch = 2, .in_height = 3, .in_width = 4, .channels = 40, .active = 21};
  set_square(&s, 3, 1, true);
  Operands operands = new_operands(&s);
  float* y = NEW(float, outputs_of(&s));
  for (FbsPath path = kFbsPathAuto; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    static const int32_t outside[] = {-1, 40, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
      operands.indices[41] = outside[i];
      CHECK(run(&s, path, &operands, y, 1) == -1, "index %d accepted", outside[i]);
    }
    operands.indices[41] = operands.indices[40]; /* equal ones do no harm */
    CHECK(run(&s, path, &operands, y, 1) == 0, "equal indices refused");
  }
  free(y);
  free_operands(&operands);
}

static void test_check(void) {
  const FbsDepthwiseShape valid = {1, 8, 9, 10, 6, 3, 3, 1, 1, 1, 1, 1, 1, 8, 9, kFbsActivationNone};
#define FIELD(name) offsetof(FbsDepthwiseShape, name)
  static const struct {
    size_t field;
    int32_t value;
    const char* part;
  } bad[] = {
      {FIELD(batch), 0, "batch must be at least 1, got 0"},
      {FIELD(in_height), -1, "in_height must be at least 1, got -1"},
      {FIELD(in_width), 0, "in_width must be at least 1"},
      {FIELD(channels), 0, "channels must be at least 1"},
      {FIELD(active), 11, "active must be from 1 to 10, got 11"},
      {FIELD(active), 0, "active must be from 1 to 10, got 0"},
      {FIELD(kernel_height), 0, "kernel_height must be at least 1"},
      {FIELD(kernel_width), 0, "kernel_width must be at least 1"},
      {FIELD(stride_height), 0, "stride_height must be at least 1"},
      {FIELD(stride_width), 0, "stride_width must be at least 1"},
      {FIELD(dilation_height), 0, "dilation_height must be at least 1"},
      {FIELD(dilation_width), 0, "dilation_width must be at least 1"},
      {FIELD(pad_top), -1, "pad_top must be at least 0, got -1"},
      {FIELD(pad_left), -1, "pad_left must be at least 0, got -1"},
      {FIELD(out_height), 0, "out_height must be at least 1"},
      {FIELD(out_width), 0, "out_width must be at least 1"},
      {FIELD(activation), 3, "activation must be from 0 to 2, got 3"},
      {FIELD(batch), 1 << 28, "the input must have at most"},
      {FIELD(out_width), 1 << 28, "the output must have at most"},
      {FIELD(kernel_width), 1 << 28, "the weights must have at most"},
      {FIELD(stride_height), 1 << 30, "the last window must end within"},
      {FIELD(dilation_width), 2147000000, "the last window must end within"},
  };
  char message[256];
  CHECK(fbs_depthwise_check(&valid, message, sizeof message) == NULL, "%s", message);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    FbsDepthwiseShape shape = valid;
    memcpy((char*)&shape + bad[i].field, &bad[i].value, sizeof(int32_t));
    expect_refusal(fbs_depthwise_check(&shape, message, sizeof message), message, bad[i].part);
  }
}

int main(int argc, char** argv) {
  const int32_t count = parse_arguments(argc, argv);
  create_pools();
  test_check();
  test_special_values();
  test_hostile_indices();
  test_tiles();
  for (int32_t n = 0; n < count; n++) test_random_shape();
  destroy_pools();
  return 0;
}
