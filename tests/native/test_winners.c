/* The winners of every kind of kernels of this CPU against a full sort: ties, zeros, infinities, NaN, groups. Usage:
 * test_winners SEED COUNT */
#include <math.h>
#include <string.h>

#include "isa.h"
#include "testing.h"

typedef struct {
  float mean;
  int32_t group;
} Entry;

/* By mean, largest first and NaN last; then by index. */
static int order(const void* a, const void* b) {
  const Entry *x = a, *y = b;
  if (isnan(x->mean) != isnan(y->mean)) return isnan(x->mean) ? 1 : -1;
  if (x->mean > y->mean || x->mean < y->mean) return x->mean > y->mean ? -1 : 1;
  return x->group < y->group ? -1 : 1;
}

static void test_case(const float* g, int32_t channels, int32_t group_size, int32_t count) {
  const int32_t groups = channels / group_size;
  Entry* entries = NEW(Entry, groups);
  char* wins = NEW(char, groups);
  for (int32_t i = 0; i < groups; i++) {
    float sum = 0;
    for (int32_t j = 0; j < group_size; j++) sum += g[i * group_size + j];
    entries[i] = (Entry){sum / (float)group_size, i};
    wins[i] = 0;
  }
  qsort(entries, (size_t)groups, sizeof *entries, order);
  for (int32_t i = 0; i < count / group_size; i++) wins[entries[i].group] = 1;

  int32_t* keys = NEW(int32_t, groups);
  int32_t* winners = NEW(int32_t, count);
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path)) continue;
    fbs_select_kernels(path)->choose_winners(g, channels, group_size, count, keys, winners);
    int32_t n = 0;
    for (int32_t o = 0; o < channels; o++) {
      if (!wins[o / group_size]) continue;
      CHECK(winners[n] == o, "%s: winner %d of %d from %d in groups of %d is %d, expected %d", fbs_path_name(path), n,
            count, channels, group_size, winners[n], o);
      n++;
    }
  }
  free(winners);
  free(keys);
  free(wins);
  free(entries);
}

int main(int argc, char** argv) {
  const int32_t count = parse_arguments(argc, argv);
  /* Few different values make many ties; -0 equals 0. */
  static const float few[] = {0, -0.0f, 1, 1, 2, 0x1p-149f, 3.4e38f, INFINITY, NAN, -NAN};
  enum { kFew = sizeof few / sizeof few[0], kMost = 200 };
  float g[kMost];
  for (int32_t k = 1; k <= kFew; k++) test_case(few, kFew, 1, k);
  for (size_t v = 0; v < kFew; v++) { /* all equal */
    for (int32_t i = 0; i < kMost; i++) g[i] = few[v];
    for (int32_t k = 1; k <= kMost; k++) test_case(g, kMost, 1, k);
  }
  for (int32_t n = 0; n < count; n++) {
    const int32_t group_size = random_between(1, 4), groups = random_between(1, kMost / group_size);
    const int32_t kinds = random_between(0, 3); /* 0: all different */
    for (int32_t i = 0; i < kMost; i++) g[i] = kinds == 0 ? random_unit() : few[random_between(0, 3 * kinds)];
    test_case(g, groups * group_size, group_size, random_between(1, groups) * group_size);
  }
  return 0;
}
