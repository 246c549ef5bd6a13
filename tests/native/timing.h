/* What the benchmark programs share: a steady clock, and the order of times for medians. */
#ifndef FBS_TESTS_NATIVE_TIMING_H_
#define FBS_TESTS_NATIVE_TIMING_H_

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

#endif
