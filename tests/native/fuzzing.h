/* What the fuzz targets share. A target is built with -fsanitize=fuzzer and takes its random numbers from the fuzzer's
 * input, as long as that lasts (testing.h), so that the fuzzer's changes are changes of shapes and values. Threads take
 * turns: linked with -Wl,--wrap=fbs_threads_run, runs are repeatable and need no second core.
 */
#ifndef FBS_TESTS_NATIVE_FUZZING_H_
#define FBS_TESTS_NATIVE_FUZZING_H_

#include <math.h>

#include "pools.h"
#include "windows.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

void __wrap_fbs_threads_run(FbsThreads* threads, void (*task)(void*, int32_t, int32_t), void* context);

/* The last thread first, so that none may count on another one. */
void __wrap_fbs_threads_run(FbsThreads* threads, void (*task)(void*, int32_t, int32_t), void* context) {
  const int32_t count = fbs_threads_count(threads);
  for (int32_t thread = count - 1; thread >= 0; thread--) task(context, thread, count);
}

static inline void begin_input(const uint8_t* data, size_t size) {
  if (pools[0] == NULL) create_pools();
  given = data;
  given_left = size;
  random_state = 1;
}

static inline int32_t extreme(void) {
  static const int32_t values[] = {INT32_MIN, -1, 0, 127, 32767, 65536, 1 << 30, INT32_MAX};
  return values[random_below(sizeof values / sizeof *values)];
}

/* 1..most, but for one of 64 times */
static inline int32_t any_size(int32_t most) {
  const int32_t byte = random_between(0, 255);
  return byte >= 252 ? extreme() : 1 + byte % most;
}

/* One axis of a window and of the input. */
typedef struct {
  int32_t in, kernel, stride, dilation, pad, out;
} AnyAxis;

/* Half of them 3 wide, a quarter with any other window, and a quarter with zeros and outputs that no window needs.
 * False where VALID leaves no output. */
static inline bool any_axis(int32_t kind, int32_t most, AnyAxis* a) {
  *a = (AnyAxis){.kernel = 3, .stride = 1, .dilation = 1};
  if (kind == 3) {
    *a = (AnyAxis){any_size(most), any_size(7), any_size(4), any_size(4), any_size(9), any_size(most)};
    return true;
  }
  a->in = random_between(1, most);
  if (kind == 2) {
    a->kernel = random_between(1, 7);
    a->stride = random_between(1, 4);
    a->dilation = random_between(1, 4);
  }
  return set_axis(a->in, a->kernel, a->stride, a->dilation, random_between(0, 1), &a->out, &a->pad);
}

/* Values that sums, ranges and comparisons do not survive, at some places. */
static inline void spoil_floats(float* values, size_t n) {
  static const float special[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, -0.0f};
  for (int32_t i = random_between(1, 4); i > 0; i--) {
    values[random_below(n)] = special[random_below(sizeof special / sizeof *special)];
  }
}

#endif
