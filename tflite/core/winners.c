#include "winners.h"

#include <string.h>

/* An integer that is ordered as the numbers are: for floats that are not negative their bits already are. NaN is the
 * least. */
static int32_t order_key(float v) {
  if (v != v) return 0;
  v += 0; /* -0 becomes 0 */
  int32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits + 1; /* at most that of infinity, 0x7f800001 */
}

static int32_t count_at_least(const int32_t* keys, int32_t n, int32_t threshold) {
  int32_t count = 0;
  for (int32_t i = 0; i < n; i++) count += keys[i] >= threshold;
  return count;
}

/* The largest threshold that at least `count` keys reach, or one that exactly so many do, found bit by bit: at most 31
 * vectorised passes, whatever the values. */
static int32_t threshold_of(const int32_t* keys, int32_t n, int32_t count) {
  int32_t threshold = 0;
  for (int32_t bit = 1 << 30; bit != 0; bit >>= 1) {
    const int32_t reached = count_at_least(keys, n, threshold | bit);
    if (reached >= count) threshold |= bit;
    if (reached == count) break;
  }
  return threshold;
}

static float mean_of(const float* g, int32_t n) {
  float sum = 0;
  for (int32_t i = 0; i < n; i++) sum += g[i];
  return sum / (float)n;
}

void fbs_choose_winners(const float* g, int32_t channels, int32_t group_size, int32_t count, int32_t* keys,
                        int32_t* winners) {
  const int32_t groups = channels / group_size, winning = count / group_size;
  if (group_size == 1) { /* vectorised */
    for (int32_t i = 0; i < groups; i++) keys[i] = order_key(g[i]);
  } else {
    for (int32_t i = 0; i < groups; i++) keys[i] = order_key(mean_of(g + i * group_size, group_size));
  }
  const int32_t threshold = threshold_of(keys, groups, winning);
  int32_t ties = winning - count_at_least(keys, groups, threshold + 1); /* that win: the first ones */
  /* Without branches, which would be mispredicted: every group is written where the next winner belongs. */
  for (int32_t i = 0, found = 0; found < winning; i++) {
    for (int32_t j = 0; j < group_size; j++) winners[found * group_size + j] = i * group_size + j;
    const int tied = keys[i] == threshold;
    found += (keys[i] > threshold) | (tied & (ties > 0));
    ties -= tied;
  }
}
