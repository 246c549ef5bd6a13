/* For every AArch64: products of bytes as 16 bits, of which pairs are added up. */
#if defined(__aarch64__)

#include "int8_neon.h"

/* Each channel's sum is spread over two neighbouring lanes. */
typedef struct {
  int32x4_t low, high; /* of channels 0 and 1, 2 and 3 */
} Sums;

static inline Sums load_sums(const int32_t* p) {
  const int32x4_t v = vld1q_s32(p), zero = vdupq_n_s32(0);
  return (Sums){vzip1q_s32(v, zero), vzip2q_s32(v, zero)};
}

static inline void dot(Sums* sum, int8x16_t x, int8x16_t w) {
  sum->low = vpadalq_s16(sum->low, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
  sum->high = vpadalq_s16(sum->high, vmull_high_s8(x, w));
}

/* Two quads at once: the sum of two products, at most 2 * 128 * 127, is still a number of 16 bits. */
static inline void dot_two(Sums* sum, int8x16_t x0, int8x16_t w0, int8x16_t x1, int8x16_t w1) {
  const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(x0), vget_low_s8(w0)), vget_low_s8(x1), vget_low_s8(w1));
  sum->low = vpadalq_s16(sum->low, low);
  sum->high = vpadalq_s16(sum->high, vmlal_high_s8(vmull_high_s8(x0, w0), x1, w1));
}

#define NAME "neon"
#define SUMS Sums
#define LOAD_SUMS(p) load_sums(p)
#define DOT(sum, bytes, weights) dot(&(sum), bytes, weights)
#define TO_FLOAT(sums) vcvtq_f32_s32(vpaddq_s32((sums).low, (sums).high))

#define MULTIPLY_QUADS multiply_two_by_two
INLINE int64_t multiply_two_by_two(SUMS sum[][kFbsInt8MaxVectors], const uint8_t* const* windows, int64_t i,
                                   const int8_t* w, int64_t quads, const int pixels, const int vectors) {
  const uint8_t* x[kFbsInt8MaxPixels]; /* in registers */
  UNROLL for (int p = 0; p < pixels; p++) x[p] = windows[p];
  int64_t quad = 0;
  for (; quad + 2 <= quads; quad += 2, i += 8, w += 2 * vectors * LANES * 4) {
    WEIGHTS weights[2 * kFbsInt8MaxVectors];
    UNROLL for (int v = 0; v < 2 * vectors; v++) weights[v] = LOAD_WEIGHTS(w + v * LANES * 4);
    UNROLL for (int p = 0; p < pixels; p++) {
      const BYTES first = SPREAD(x[p] + i), second = SPREAD(x[p] + i + 4);
      UNROLL for (int v = 0; v < vectors; v++) dot_two(&sum[p][v], first, weights[v], second, weights[vectors + v]);
    }
  }
  return quad;
}

/* Of 32 registers, up to 16 hold sums. */
#define MAX_VECTORS 2
#define TILE_PIXELS {0, 4, 4}
#define TILES(T) TILES_4(T, 1) TILES_4(T, 2)

#include "int8_template.h"

const FbsInt8Kernels* const fbs_int8_kernels_neon = &kernels;

#else

#include "../kernels_int8.h"

const FbsInt8Kernels* const fbs_int8_kernels_neon = NULL;

#endif
