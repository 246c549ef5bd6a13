/* The winner-take-all of the gate. */
#ifndef FBS_CORE_WINNERS_H_
#define FBS_CORE_WINNERS_H_

#include <stdint.h>

/* The `count` channels with the largest g, as whole groups of group_size channels compared by their mean, in
 * ascending order. The lower index wins a tie; NaN is less than any number. No g is negative. keys: room for one per
 * group. */
void fbs_choose_winners(const float* g, int32_t channels, int32_t group_size, int32_t count, int32_t* keys,
                        int32_t* winners);

#endif
