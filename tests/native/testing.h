/* What the test programs share: checks that name the place, random numbers that a seed repeats, and memory. */
#ifndef FBS_TESTS_NATIVE_TESTING_H_
#define FBS_TESTS_NATIVE_TESTING_H_

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                         \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                   \
      fprintf(stderr, "\n");                                          \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

/* What a check of a shape has `got`: the message, with this part in it. */
static inline void expect_refusal(const char* got, const char* message, const char* part) {
  CHECK(got == message && strstr(message, part) != NULL, "got \"%s\", expected \"%s\"", got == NULL ? "NULL" : got,
        part);
}

static uint64_t random_state = 1;

/* splitmix64 */
static inline uint64_t random_bits(void) {
  uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* A fuzzer's input, whose bytes are the first random numbers; none in the other programs. */
static const uint8_t* given;
static size_t given_left;

/* As many bytes of `given` as it takes to count to `limit`. */
static inline uint64_t given_bits(uint64_t limit) {
  uint64_t bits = 0;
  for (uint64_t rest = limit - 1; rest > 0 && given_left > 0; rest >>= 8, given_left--) bits = bits << 8 | *given++;
  return bits;
}

/* One of 0..limit-1 */
static inline uint64_t random_below(uint64_t limit) {
  return (given_left > 0 ? given_bits(limit) : random_bits()) % limit;
}

/* least..most, both included */
static inline int32_t random_between(int32_t least, int32_t most) {
  return (int32_t)(least + (int64_t)random_below((uint64_t)((int64_t)most - least) + 1));
}

/* COUNT of a program with the arguments SEED COUNT; the numbers begin at SEED. */
static inline int32_t parse_arguments(int argc, char** argv) {
  CHECK(argc == 3, "usage: %s SEED COUNT", argv[0]);
  random_state = strtoull(argv[1], NULL, 10);
  return atoi(argv[2]);
}

static inline float random_unit(void) {
  return (float)(given_left > 0 ? given_bits(1 << 24) : random_bits() >> 40) / (float)(1 << 24);
}

/* Exactly n elements, so that AddressSanitizer sees the first one beyond them. */
#define NEW(type, n) ((type*)allocate(sizeof(type) * (size_t)(n)))
static inline void* allocate(size_t bytes) {
  void* memory = malloc(bytes > 0 ? bytes : 1);
  CHECK(memory != NULL, "no memory for %zu bytes", bytes);
  return memory;
}

static inline float* constants(size_t n, float value) {
  float* values = NEW(float, n);
  for (size_t i = 0; i < n; i++) values[i] = value;
  return values;
}

/* Of NaN, so that no run can do with what it has not written. */
static inline void* new_workspace(size_t bytes) {
  const size_t size = (bytes > 0 ? bytes + 63 : 64) / 64 * 64;
  void* workspace = aligned_alloc(64, size);
  CHECK(workspace != NULL, "no memory for %zu bytes", size);
  memset(workspace, 0xff, size);
  return workspace;
}

/* `count` of the first n integers, in ascending order. */
static inline void random_subset(int32_t n, int32_t count, int32_t* subset) {
  for (int32_t i = 0, found = 0; found < count; i++) {
    if (random_between(0, n - i - 1) < count - found) subset[found++] = i;
  }
}

/* Any `count` of the n values, in any order, come first. */
static inline void shuffle(int32_t n, int32_t count, int32_t* values) {
  for (int32_t i = 0; i < count; i++) {
    const int32_t j = random_between(i, n - 1), swapped = values[i];
    values[i] = values[j];
    values[j] = swapped;
  }
}

/* From numbers of groups, which come first, to the `count` neighbours in them, `size` in each. */
static inline void spread_groups(int32_t size, int32_t count, int32_t* indices) {
  for (int32_t i = count - 1; i >= 0; i--) indices[i] = indices[i / size] * size + i % size;
}

/* `count` of the first n integers, in any order. */
static inline void random_indices(int32_t n, int32_t count, int32_t* indices) {
  int32_t* all = NEW(int32_t, n);
  for (int32_t i = 0; i < n; i++) all[i] = i;
  shuffle(n, count, all);
  memcpy(indices, all, sizeof *indices * (size_t)count);
  free(all);
}

#endif
