#include "winners.h"

#include <string.h>

/* An integer that is ordered as the numbers are: for floats that are not negative (nor -0, which a sum that begins with
 * 0 never is) their bits already are. NaN is the least. */
static int32_t order_key(float v) {
  if (v != v) return 0;
  int32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits + 1; /* at most that of infinity, 0x7f800001 */
}

static int32_t count_at_least(const int32_t* keys, int32_t n, int32_t threshold) {
  int32_t count = 0;
  for (int32_t i = 0; i < n; i++) count += keys[i] >= threshold;
  return count;
}

/* The largest threshold that at least `count` keys reach, found bit by bit: 31 vectorised passes, whatever the values.
 */
static int32_t threshold_of(const int32_t* keys, int32_t n, int32_t count) {
  int32_t threshold = 0;
  for (int32_t bit = 1 << 30; bit != 0; bit >>= 1) {
    if (count_at_least(keys, n, threshold | bit) >= count) threshold |= bit;
  }
  return threshold;
}

void fbs_choose_winners(const float* g, int32_t channels, int32_t group_size, int32_t count, int32_t* keys,
                        int32_t* winners) {
  const int32_t groups = channels / group_size, winning = count / group_size;
  for (int32_t i = 0; i < groups; i++) {
    float sum = 0;
    for (int32_t j = 0; j < group_size; j++) sum += g[i * group_size + j];
    keys[i] = order_key(sum / (float)group_size);
  }
  const int32_t threshold = threshold_of(keys, groups, winning);
  const int32_t above = count_at_least(keys, groups, threshold + 1);
  int32_t ties = winning - above; /* winners at the threshold itself: the first ones */
  for (int32_t i = 0; i < groups; i++) {
    if (keys[i] < threshold || (keys[i] == threshold && ties-- <= 0)) continue;
    for (int32_t j = 0; j < group_size; j++) *winners++ = i * group_size + j;
  }
}
