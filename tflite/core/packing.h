/* How the active weights are laid side by side for multiplication. */
#ifndef FBS_CORE_PACKING_H_
#define FBS_CORE_PACKING_H_

#include "kernels.h"

/* Vectors that hold this many channels, the last one perhaps partly used. */
int32_t fbs_vectors_of(int32_t channels, int32_t lanes);

/* Covers the `count` winners of each packed vector with as few stretches of `width` neighbouring columns as possible:
 * `count` stretches at most, that begin at last_column or before. first_stretch has an entry for each vector and one
 * more. */
void fbs_find_stretches(const int32_t* winners, int32_t count, int32_t last_column, int32_t lanes, int32_t width,
                        FbsStretch* stretches, int32_t* first_stretch);

#endif
