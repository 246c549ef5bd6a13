/* The winner-take-all of the gate: loops that the compiler vectorises for each instruction set. */
#include <string.h>

/* An integer that is ordered as the numbers are: for floats that are not negative their bits already are. NaN is the
 * least. */
INLINE int32_t order_key(float v) {
  if (v != v) return 0;
  v += 0; /* -0 becomes 0 */
  int32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits + 1; /* at most that of infinity, 0x7f800001 */
}

INLINE float mean_of(const float* g, int32_t n) {
  float sum = 0;
  for (int32_t i = 0; i < n; i++) sum += g[i];
  return sum / (float)n;
}

static int32_t count_at_least(const int32_t* keys, int32_t n, int32_t threshold) {
  int32_t count = 0;
  for (int32_t i = 0; i < n; i++) count += keys[i] >= threshold;
  return count;
}

/* The largest threshold that at least `count` keys reach, or one that exactly so many do, found bit by bit, whatever
 * the values: at most 31 passes, fewer where all keys begin with the same bits. *reached: how many do. */
static int32_t threshold_of(const int32_t* keys, int32_t n, int32_t count, int32_t* reached) {
  int32_t every = -1, any = 0; /* bits of every key, and of any */
  for (int32_t i = 0; i < n; i++) every &= keys[i], any |= keys[i];
  int32_t bit = 1 << 30;
  while (bit != 0 && ((every ^ any) & bit) == 0) bit >>= 1;
  int32_t threshold = bit == 0 ? every : every & (-2 * bit); /* 2 * bit may not fit */
  *reached = n;
  for (; bit != 0 && *reached != count; bit >>= 1) {
    const int32_t more = count_at_least(keys, n, threshold | bit);
    if (more < count) continue;
    threshold |= bit;
    *reached = more;
  }
  return threshold;
}

static void choose_winners(const float* g, int32_t channels, int32_t group_size, int32_t count, int32_t* keys,
                           int32_t* winners) {
  const int32_t groups = channels / group_size, winning = count / group_size;
  if (group_size == 1) { /* vectorised */
    for (int32_t i = 0; i < groups; i++) keys[i] = order_key(g[i]);
  } else {
    for (int32_t i = 0; i < groups; i++) keys[i] = order_key(mean_of(g + i * group_size, group_size));
  }
  int32_t reached;
  const int32_t threshold = threshold_of(keys, groups, winning, &reached);
  for (int32_t i = groups - 1; reached > winning; i--) { /* the last ones of those that are tied lose */
    if (keys[i] != threshold) continue;
    keys[i] = -1;
    reached--;
  }
  /* Without branches, which would be mispredicted: every group is written where the next winner belongs. */
  for (int32_t i = 0, found = 0; found < winning; i++) {
    winners[found] = i;
    found += keys[i] >= threshold;
  }
  if (group_size == 1) return;
  for (int32_t n = winning - 1; n >= 0; n--) { /* from groups to their channels, the last ones first */
    const int32_t first = winners[n] * group_size;
    for (int32_t j = 0; j < group_size; j++) winners[n * group_size + j] = first + j;
  }
}
