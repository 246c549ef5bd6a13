/* The addition against its definition: vector and pixel tails, indices in any order. Usage: test_add SEED COUNT */
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

/* The status of a run on so many threads. */
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

/* What only a hostile file holds: any result will do for equal indices, and those out of range are refused. */
static void test_hostile_indices(void) {
  const FbsAddShape s = {.batch = 2, .pixels = 7, .channels = 40, .addends = 2, .active = {0, 21}};
  Operands operands = new_operands(&s);
  float* y = NEW(float, pixels_of(&s) * s.channels);
  int32_t* indices = operands.indices[1];
  for (FbsPath path = kFbsPathAuto; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    for (int32_t i = 0; i < 42; i++) indices[i] = i % 5 == 0 ? 39 : 17;
    CHECK(run(&s, path, &operands, y, 1) == 0, "equal indices refused");
    static const int32_t outside[] = {-1, 40, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
      indices[41] = outside[i];
      CHECK(run(&s, path, &operands, y, 1) == -1, "index %d accepted", outside[i]);
    }
  }
  free(y);
  free_operands(&operands);
}

static void test_check(void) {
  const FbsAddShape valid = {.batch = 1, .pixels = 4, .channels = 8, .addends = 2, .active = {0, 8}};
  static const struct {
    FbsAddShape shape;
    const char* part;
  } bad[] = {
      {{.batch = 0, .pixels = 4, .channels = 8, .addends = 1}, "batch must be from 1"},
      {{.batch = 1, .pixels = -4, .channels = 8, .addends = 1}, "pixels must be from 1"},
      {{.batch = 1, .pixels = 4, .channels = 0, .addends = 1}, "channels must be from 1"},
      {{.batch = 1, .pixels = 4, .channels = 8, .addends = 0}, "addends must be from 1 to 8, got 0"},
      {{.batch = 1, .pixels = 4, .channels = 8, .addends = 9}, "addends must be from 1 to 8, got 9"},
      {{.batch = 1, .pixels = 4, .channels = 8, .addends = 2, .active = {1, 9}},
       "active of addend 1 must be from 0 to"},
      {{.batch = 1, .pixels = 4, .channels = 8, .addends = 1, .active = {-1}},
       "active of addend 0 must be from 0 to 8"},
      {{.batch = 1, .pixels = 4, .channels = 8, .addends = 1, .activation = 3},
       "activation must be from 0 to 2, got 3"},
      {{.batch = 1 << 10, .pixels = 1 << 11, .channels = 1 << 10, .addends = 1}, "the sum must have at most"},
  };
  char message[256];
  CHECK(fbs_add_check(&valid, message, sizeof message) == NULL, "%s", message);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    expect_refusal(fbs_add_check(&bad[i].shape, message, sizeof message), message, bad[i].part);
  }
}

int main(int argc, char** argv) {
  const int32_t count = parse_arguments(argc, argv);
  create_pools();
  test_check();
  test_hostile_indices();
  for (int32_t n = 0; n < count; n++) {
    FbsAddShape s = {.batch = random_between(1, 3),
                     .pixels = random_between(1, 40),
                     .channels = random_between(1, n % 3 == 0 ? 150 : 34),
                     .addends = random_between(1, n % 5 == 0 ? kFbsMaxAddends : 3),
                     .activation = (FbsActivation)random_between(0, 2)};
    if (n % 10 == 0) s.pixels = 1 + (1 << 15) / s.channels; /* shared by threads */
    for (int32_t i = 0; i < s.addends; i++) s.active[i] = random_between(0, 2) == 0 ? 0 : random_between(1, s.channels);
    test_case(&s);
  }
  destroy_pools();
  return 0;
}
