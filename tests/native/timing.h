/* What the benchmark programs share: a steady clock, medians, and memory. */
#ifndef FBS_TESTS_NATIVE_TIMING_H_
#define FBS_TESTS_NATIVE_TIMING_H_

#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int compare(const void* a, const void* b) {
  const double difference = *(const double*)a - *(const double*)b;
  return (difference > 0) - (difference < 0);
}

/* Sorts the times, so that the best is the first. */
static inline double median(double* times, int n) {
  qsort(times, (size_t)n, sizeof *times, compare);
  return times[n / 2];
}

/* Zeros, aligned for vectors. */
static inline void* memory_of(size_t bytes) {
  void* memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  memset(memory, 0, bytes);
  return memory;
}

#endif
