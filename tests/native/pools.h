/* The pools of threads that the test programs run on. */
#ifndef FBS_TESTS_NATIVE_POOLS_H_
#define FBS_TESTS_NATIVE_POOLS_H_

#include "testing.h"
#include "threads.h"

enum { kPools = 3 }; /* of 1, 2 and 3 threads */
static FbsThreads* pools[kPools];

static inline void create_pools(void) {
  for (int32_t i = 0; i < kPools; i++) {
    pools[i] = fbs_threads_create(i + 1);
    CHECK(pools[i] != NULL, "no pool of %d threads", i + 1);
  }
}

static inline void destroy_pools(void) {
  for (int32_t i = 0; i < kPools; i++) fbs_threads_destroy(pools[i]);
}

#endif
