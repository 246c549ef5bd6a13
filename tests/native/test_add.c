/* The addition against its definition: vector and pixel tails, indices in any order. Usage: test_add SEED COUNT */
#include "additions.h"

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
