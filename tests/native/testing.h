/* What the test programs share: checks that name the place, and random numbers that a seed repeats. */
#ifndef FBS_TESTS_NATIVE_TESTING_H_
#define FBS_TESTS_NATIVE_TESTING_H_

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition, ...)                                         \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                   \
      fprintf(stderr, "\n");                                          \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

static uint64_t random_state = 1;

/* splitmix64 */
static inline uint64_t random_bits(void) {
  uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* least..most, both included */
static inline int32_t random_between(int32_t least, int32_t most) {
  return least + (int32_t)(random_bits() % (uint64_t)(most - least + 1));
}

static inline float random_unit(void) { return (float)(random_bits() >> 40) / (float)(1 << 24); }

/* Exactly n elements, so that AddressSanitizer sees the first one beyond them. */
#define NEW(type, n) ((type*)allocate(sizeof(type) * (size_t)(n)))
static inline void* allocate(size_t bytes) {
  void* memory = malloc(bytes > 0 ? bytes : 1);
  CHECK(memory != NULL, "no memory for %zu bytes", bytes);
  return memory;
}

#endif
