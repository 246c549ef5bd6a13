/* Times sums of dense and compact tensors next to memcpy of as many bytes as they read and write, halved, for each path
 * of this CPU:
 *
 *   cc -std=gnu11 -O3 -I tflite/core tests/native/bench_add.c tflite/core/[a-z]*.c tflite/core/kernels/[a-z]*.c \
 *       -lm -lpthread -o bench_add
 *   ./bench_add [threads]
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "add.h"
#include "testing.h"
#include "timing.h"

enum { kRuns = 500 };

static const struct {
  const char* name;
  FbsAddShape shape;
} sums[] = {
    {"56x56x64 expand", {1, 56 * 56, 64, 1, {32}, kFbsActivationNone}},
    {"56x56x64 dense + compact", {1, 56 * 56, 64, 2, {0, 32}, kFbsActivationRelu}},
    {"56x56x64 compact + compact", {1, 56 * 56, 64, 2, {32, 32}, kFbsActivationRelu}},
    {"28x28x128 expand", {1, 28 * 28, 128, 1, {64}, kFbsActivationNone}},
    {"28x28x128 dense + compact", {1, 28 * 28, 128, 2, {0, 64}, kFbsActivationRelu}},
    {"28x28x128 compact + compact", {1, 28 * 28, 128, 2, {64, 64}, kFbsActivationRelu}},
    {"14x14x256 dense + compact", {1, 14 * 14, 256, 2, {0, 128}, kFbsActivationRelu}},
    {"7x7x512 dense + compact", {1, 7 * 7, 512, 2, {0, 256}, kFbsActivationRelu}},
    {"32x32x16 dense + compact", {1, 32 * 32, 16, 2, {0, 8}, kFbsActivationRelu}},
};

static void bench(const char* name, const FbsAddShape* s, FbsPath path, FbsThreads* threads) {
  float* x[kFbsMaxAddends];
  int32_t* indices[kFbsMaxAddends];
  size_t bytes = sizeof(float) * (size_t)s->pixels * (size_t)s->channels;
  float* y = memory_of(bytes);
  for (int32_t i = 0; i < s->addends; i++) {
    const int32_t active = s->active[i] == 0 ? s->channels : s->active[i];
    x[i] = memory_of(sizeof(float) * (size_t)s->pixels * (size_t)active);
    bytes += sizeof(float) * (size_t)s->pixels * (size_t)active;
    indices[i] = memory_of(sizeof(int32_t) * (size_t)active);
    random_subset(s->channels, active, indices[i]);
  }
  char* workspace = memory_of(fbs_add_workspace_size(s, path));
  char *from = memory_of(bytes / 2), *to = memory_of(bytes / 2);
  double run[kRuns], copy[kRuns];
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_add_run(s, path, threads, (const float* const*)x, (const int32_t* const*)indices, y, workspace);
    run[i] = now() - start;
  }
  for (int i = 0; i < kRuns; i++) {
    from[i] = (char)i;
    const double start = now();
    memcpy(to, from, bytes / 2);
    copy[i] = now() - start;
    __asm__ volatile("" : : "r"(to) : "memory");
  }
  const double run_median = median(run, kRuns), copy_median = median(copy, kRuns);
  printf("%-30s %-7s %9.1f %9.1f %9.1f %9.1f %6.2f\n", name, fbs_path_name(path), run_median * 1e6, run[0] * 1e6,
         copy_median * 1e6, copy[0] * 1e6, run[0] / copy[0]);
  for (int32_t i = 0; i < s->addends; i++) {
    free(x[i]);
    free(indices[i]);
  }
  free(y);
  free(workspace);
  free(from);
  free(to);
}

int main(int argc, char** argv) {
  FbsThreads* threads = fbs_threads_create(argc > 1 ? atoi(argv[1]) : 1);
  printf("%-30s %-7s %9s %9s %9s %9s %6s\n", "", "path", "us", "best us", "copy us", "best us", "ratio");
  for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
    for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
      if (fbs_path_available(path)) bench(sums[i].name, &sums[i].shape, path, threads);
    }
  }
  fbs_threads_destroy(threads);
  return 0;
}
