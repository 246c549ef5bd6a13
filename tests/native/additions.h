/* A sum of random numbers, and the comparison of every path of this CPU with its definition. */
#ifndef FBS_TESTS_NATIVE_ADDITIONS_H_
#define FBS_TESTS_NATIVE_ADDITIONS_H_

#include <math.h>
#include <string.h>

#include "add.h"
#include "pools.h"
#include "testing.h"

typedef struct {
  float* x[kFbsMaxAddends];
  int32_t* indices[kFbsMaxAddends];
} Operands;

static int64_t pixels_of(const FbsAddShape* s) { return (int64_t)s->batch * s->pixels; }

/* Some channels of all, a random subset: ascending, descending or shuffled. */
static void fill_indices(int32_t* indices, int32_t active, int32_t channels, int32_t order) {
  random_subset(channels, active, indices);
  for (int32_t i = 0; i < active; i++) {
    const int32_t other = order == 0 ? i : order == 1 ? active - 1 - i : random_between(0, active - 1);
    if (order == 1 && other <= i) break;
    const int32_t swapped = indices[i];
    indices[i] = indices[other];
    indices[other] = swapped;
  }
}

static Operands new_operands(const FbsAddShape* s) {
  Operands operands = {{NULL}, {NULL}};
  for (int32_t i = 0; i < s->addends; i++) {
    const int32_t width = s->active[i] == 0 ? s->channels : s->active[i];
    operands.x[i] = NEW(float, pixels_of(s) * width);
    for (int64_t n = 0; n < pixels_of(s) * width; n++) operands.x[i][n] = 8 * random_unit() - 3;
    if (s->active[i] == 0) continue;
    operands.indices[i] = NEW(int32_t, (int64_t)s->batch* width);
    const int32_t order = random_between(0, 2);
    for (int64_t n = 0; n < s->batch; n++) fill_indices(operands.indices[i] + n * width, width, s->channels, order);
  }
  return operands;
}

static void free_operands(Operands* operands) {
  for (int32_t i = 0; i < kFbsMaxAddends; i++) {
    free(operands->x[i]);
    free(operands->indices[i]);
  }
}

static void add_by_definition(const FbsAddShape* s, const Operands* operands, float* y) {
  for (int64_t pixel = 0; pixel < pixels_of(s); pixel++, y += s->channels) {
    for (int32_t c = 0; c < s->channels; c++) y[c] = 0;
    for (int32_t i = 0; i < s->addends; i++) {
      const int32_t width = s->active[i] == 0 ? s->channels : s->active[i];
      for (int32_t k = 0; k < width; k++) {
        const int32_t c = s->active[i] == 0 ? k : operands->indices[i][pixel / s->pixels * width + k];
        y[c] += operands->x[i][pixel * width + k];
      }
    }
    for (int32_t c = 0; c < s->channels; c++) {
      if (s->activation != kFbsActivationNone) y[c] = fmaxf(y[c], 0);
      if (s->activation == kFbsActivationRelu6) y[c] = fminf(y[c], 6);
    }
  }
}

/* The status of a run on this many threads. */
static int run(const FbsAddShape* s, FbsPath path, const Operands* operands, float* y, int32_t threads) {
  char message[256];
  const char* refusal = fbs_add_check(s, message, sizeof message);
  CHECK(refusal == NULL, "%s", message);
  void* workspace = new_workspace(fbs_add_workspace_size(s, path));
  const int status = fbs_add_run(s, path, pools[threads - 1], (const float* const*)operands->x,
                                 (const int32_t* const*)operands->indices, y, workspace);
  free(workspace);
  return status;
}

static void test_case(const FbsAddShape* s) {
  Operands operands = new_operands(s);
  const size_t elements = (size_t)(pixels_of(s) * s->channels);
  float *expected = NEW(float, elements), *y = NEW(float, elements);
  add_by_definition(s, &operands, expected);
  for (FbsPath path = kFbsPathAuto; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    memset(y, -1, elements * sizeof *y); /* NaN */
    CHECK(run(s, path, &operands, y, random_between(1, kPools)) == 0, "refused");
    for (size_t i = 0; i < elements; i++) {
      CHECK(y[i] == expected[i], "%s: y[%zu] of %d x %d x %d, %d addends of %d, %d ... channels is %g, expected %g",
            fbs_path_name(path), i, s->batch, s->pixels, s->channels, s->addends, s->active[0], s->active[1],
            (double)y[i], (double)expected[i]);
    }
  }
  free(y);
  free(expected);
  free_operands(&operands);
}

#endif
