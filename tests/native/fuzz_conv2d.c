/* Fuzzes the float32 convolution: any shape is refused, or every method on every path of this CPU agrees with the
 * reference, on one thread and on several; values that are not finite stay within their image. */
#include "convolutions.h"
#include "fuzzed_shapes.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  begin_input(data, size);
  FbsConv2dShape s;
  bool sparse_in;
  char message[256];
  if (!any_shape(&s, &sparse_in)) return 0;
  if (fbs_conv2d_check(&s, message, sizeof message) != NULL || !is_small(&s)) return 0;
  const bool spoilt = random_between(0, 3) == 0;
  FbsThreads* threads = pools[random_below(kPools)];
  Problem p = problem_of(&s, sparse_in);
  if (random_between(0, 3) == 0) give_gates(&p);
  if (spoilt) spoil_floats(p.x, x_size_of(&s) / (size_t)s.batch);
  Result expected = run(&p, &reference, pools[0]);
  FbsConv2dOptions options[kMostOptions];
  const int32_t count = find_options(&s, options);
  for (int32_t i = 0; i < count; i++) {
    Result result = run(&p, &options[i], pools[0]);
    check_winners(&s, &result);
    for (int32_t n = spoilt; n < s.batch; n++) compare_image(&p, &options[i], &result, &expected, n);
    if (threads != pools[0]) compare_threads(&p, &options[i], &result, threads);
    free_result(&result);
  }
  free_result(&expected);
  free_problem(&p);
  return 0;
}
