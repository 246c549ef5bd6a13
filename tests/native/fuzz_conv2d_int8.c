/* Fuzzes the int8 convolution: any shape is refused, or all kernels of this CPU compute the reference's sums, bit for
 * bit, and its outputs; values that are not finite stay within their image. */
#include "convolutions_int8.h"
#include "fuzzed_shapes.h"
#include "image_int8.h"

enum { kMostImageBytes = 1 << 20 };

static void test_spoilt(const FbsConv2dShape* s, bool sparse_in) {
  Problem p = problem_of(s, sparse_in, kSigned);
  spoil_floats(p.x, x_size_of(s) / (size_t)s->batch);
  Result expected = run(&p, kFbsPathReference, pools[0]);
  const size_t y = y_size_of(s) / (size_t)s->batch;
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    Result result = run(&p, path, next_pool());
    check_winners(s, &result);
    CHECK(memcmp(result.y + y, expected.y + y, sizeof(float) * (y_size_of(s) - y)) == 0, "another image has changed");
    free_result(&result);
  }
  free_result(&expected);
  free_problem(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  begin_input(data, size);
  FbsConv2dShape s;
  bool sparse_in;
  char message[256];
  if (!any_shape(&s, &sparse_in)) return 0;
  if (fbs_conv2d_check(&s, message, sizeof message) != NULL || !is_small(&s)) return 0;
  s.max_pool = random_between(0, 1);
  const FbsInt8Image image = fbs_int8_image_of(&s);
  if (fbs_int8_image_bytes(&image, kMostImageBytes) > kMostImageBytes) return 0;
  const bool pools_nothing =
      fbs_y_height(&s) < 1 || fbs_y_width(&s) < 1; /* refused, which test_shape does not expect */
  if (pools_nothing) return 0;
  pool_number = random_between(0, kPools - 1);
  if (random_between(0, 3) == 0) {
    test_spoilt(&s, sparse_in);
  } else {
    test_shape(&s, sparse_in, (Input)random_between(0, kInputs - 1));
  }
  return 0;
}
