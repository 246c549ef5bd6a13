/* Floats as 8 bits: x is about scale * (q - zero). */
#ifndef FBS_CORE_QUANTISATION_H_
#define FBS_CORE_QUANTISATION_H_

#include <stdint.h>

#include "kernels.h"

typedef struct {
  float scale, inverse; /* 1 / scale */
  int32_t zero;         /* q of 0 */
} FbsQuantisation;

/* So that the range, which holds 0, becomes 0..255. */
FbsQuantisation fbs_quantisation_of(FbsRange range);

/* Of the finite ones among n values, and of 0. */
FbsRange fbs_finite_range(const float* x, int64_t n);

/* From 0 to 255. */
int32_t fbs_quantise(float x, float inverse, int32_t zero);

#endif
