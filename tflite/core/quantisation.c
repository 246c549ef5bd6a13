#include "quantisation.h"

#include <math.h>

FbsQuantisation fbs_quantisation_of(FbsRange range) {
  float scale = (float)(((double)range.high - range.low) / 255); /* the difference of two floats may be too large */
  if (isinf(1 / scale)) scale = 1;
  const float zero = rintf(-range.low / scale);
  return (FbsQuantisation){scale, 1 / scale, zero < 255 ? (int32_t)zero : 255};
}

FbsRange fbs_finite_range(const float* x, int64_t n) {
  FbsRange range = {0, 0};
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(x[i])) continue;
    range.low = x[i] < range.low ? x[i] : range.low;
    range.high = x[i] > range.high ? x[i] : range.high;
  }
  return range;
}

int32_t fbs_quantise(float x, float inverse, int32_t zero) {
  const float v = rintf(x * inverse);
  if (isnan(v)) return zero;
  if (v <= (float)-zero) return 0;
  return v >= (float)(255 - zero) ? 255 : (int32_t)v + zero;
}
