/* Which shapes fbs_conv2d_check refuses, and that it says why. */
#include <string.h>

#include "conv2d.h"
#include "testing.h"
#include "windows.h"

static void expect(const FbsConv2dShape* shape, const char* part) {
  char message[256] = "";
  expect_refusal(fbs_conv2d_check(shape, message, sizeof message), message, part);
  char small[8];
  CHECK(fbs_conv2d_check(shape, small, sizeof small) == small && strlen(small) < sizeof small, "message not cut");
}

int main(void) {
  FbsConv2dShape valid = {.batch = 1,
                          .in_height = 8,
                          .in_width = 8,
                          .in_channels = 6,
                          .in_active = 3,
                          .out_channels = 8,
                          .out_active = 4,
                          .group_size = 2,
                          .activation = kFbsActivationRelu};
  set_window(&valid, &same_3x3);
  char message[256];
  CHECK(fbs_conv2d_check(&valid, message, sizeof message) == NULL, "%s", message);

  static const struct {
    size_t field; /* its place in the shape */
    int32_t value;
    const char* message;
  } refused[] = {
#define FIELD(name) offsetof(FbsConv2dShape, name)
      {FIELD(batch), 0, "batch must be at least 1, got 0"},
      {FIELD(in_height), -1, "in_height must be at least 1, got -1"},
      {FIELD(in_width), INT32_MIN, "in_width must be at least 1, got -2147483648"},
      {FIELD(in_channels), 0, "in_channels must be at least 1, got 0"},
      {FIELD(in_active), 0, "in_active must be from 1 to 6, got 0"},
      {FIELD(in_active), 7, "in_active must be from 1 to 6, got 7"},
      {FIELD(out_channels), 0, "out_channels must be at least 1, got 0"},
      {FIELD(out_active), 10, "out_active must be from 1 to 8, got 10"},
      {FIELD(out_active), 3, "out_active must be a multiple of group_size 2, got 3"},
      {FIELD(group_size), 0, "group_size must be from 1 to 4, got 0"},
      {FIELD(group_size), 3, "group_size must divide out_channels 8, got 3"},
      {FIELD(kernel_height), 0, "kernel_height must be at least 1, got 0"},
      {FIELD(kernel_width), -3, "kernel_width must be at least 1, got -3"},
      {FIELD(stride_height), 0, "stride_height must be at least 1, got 0"},
      {FIELD(stride_width), 0, "stride_width must be at least 1, got 0"},
      {FIELD(dilation_height), 0, "dilation_height must be at least 1, got 0"},
      {FIELD(dilation_width), 0, "dilation_width must be at least 1, got 0"},
      {FIELD(pad_top), -1, "pad_top must be at least 0, got -1"},
      {FIELD(pad_left), -1, "pad_left must be at least 0, got -1"},
      {FIELD(out_height), 0, "out_height must be at least 1, got 0"},
      {FIELD(out_width), 0, "out_width must be at least 1, got 0"},
      {FIELD(activation), 3, "activation must be from 0 to 2, got 3"},
      {FIELD(max_pool), 1, "max_pool must be from 0 to 0, got 1"},
      {FIELD(batch), INT32_MAX, "batch must be from 1 to"},
      {FIELD(batch), 1 << 30, "the input must have at most"},
      {FIELD(in_height), 1 << 28, "the input must have at most"},
      {FIELD(out_width), 1 << 28, "the output must have at most"},
      {FIELD(kernel_width), 1 << 28, "the weights must have at most"},
      {FIELD(out_channels), 1 << 29, "the weights must have at most"},
      {FIELD(stride_height), 1 << 30, "the last window must end within"},
      {FIELD(dilation_width), 2147000000, "the last window must end within"},
  };
  for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    FbsConv2dShape shape = valid;
    memcpy((char*)&shape + refused[i].field, &refused[i].value, sizeof(int32_t));
    expect(&shape, refused[i].message);
  }

  FbsConv2dShape windows = valid; /* each tensor is small enough, the windows are too many */
  windows.kernel_height = windows.kernel_width = 4096;
  windows.out_height = windows.out_width = 4096;
  expect(&windows, "the table of windows must have at most 67108864 elements");
  windows.kernel_height = windows.kernel_width = 4;
  windows.out_height = windows.out_width = 2048; /* just as many */
  CHECK(fbs_conv2d_check(&windows, message, sizeof message) == NULL, "%s", message);
  windows.out_width++;
  expect(&windows, "the table of windows must have at most 67108864 elements");

  CHECK(fbs_conv2d_create(&valid, &(FbsConv2dWeights){0}, &(FbsConv2dOptions){.path = (FbsPath)99}) == NULL,
        "unknown path accepted");
  CHECK(strcmp(fbs_path_name((FbsPath)99), "unknown") == 0, "%s", fbs_path_name((FbsPath)99));
  return 0;
}
