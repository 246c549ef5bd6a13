/* What the int8 kernels for AArch64, with and without instructions that multiply and add four bytes, have in common.
 * Both multiply signed bytes, from -128 to 127.
 */
#include <arm_neon.h>
#include <string.h>

#include "../kernels_int8.h"

static inline void store_first(float* p, float32x4_t v, int n) {
  float first[4];
  vst1q_f32(first, v);
  for (int i = 0; i < n; i++) p[i] = first[i];
}

/* Four values as 16-bit integers, of which all beyond a byte are saturated later; NaN becomes 0. */
static inline int16x4_t round_four(const float* x, float inverse, int32x4_t zero) {
  return vqmovn_s32(vqaddq_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse)), zero));
}

static inline int8x16_t quantise_sixteen(const float* x, float inverse, int32x4_t zero) {
  const int16x8_t low = vcombine_s16(round_four(x, inverse, zero), round_four(x + 4, inverse, zero));
  const int16x8_t high = vcombine_s16(round_four(x + 8, inverse, zero), round_four(x + 12, inverse, zero));
  return vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

static void quantise(const float* x, int64_t n, float inverse, int32_t zero, uint8_t* q) {
  const int32x4_t signed_zero = vdupq_n_s32(zero - 128);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) vst1q_s8((int8_t*)q + i, quantise_sixteen(x + i, inverse, signed_zero));
  if (i == n) return;
  float last[16] = {0};
  int8_t bytes[16];
  for (int64_t j = 0; i + j < n; j++) last[j] = x[i + j];
  vst1q_s8(bytes, quantise_sixteen(last, inverse, signed_zero));
  for (int64_t j = 0; i + j < n; j++) q[i + j] = (uint8_t)bytes[j];
}

/* Which byte of a table of four rows of 16 columns goes to each byte of a packed vector; 255 is none of them. */
static inline uint8x16_t bytes_of(const FbsStretch* stretch) {
  const int32x4_t select = vld1q_s32(stretch->select);
  const uint8x16_t column = vreinterpretq_u8_s32(vmulq_n_s32(select, 0x01010101));
  const uint8x16_t row = vreinterpretq_u8_u32(vdupq_n_u32(0x30201000));
  return vorrq_u8(vaddq_u8(column, row), vreinterpretq_u8_u32(vcltzq_s32(select)));
}

static void pack_vector(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, int32_t count,
                        int8_t* packed, int64_t step, int32_t* sums) {
  int32x4_t sum = vdupq_n_s32(0);
  for (int32_t n = 0; n < count; n++) {
    const uint8x16_t bytes = bytes_of(&stretches[n]);
    const int64_t column = stretches[n].column;
    for (int64_t quad = 0; quad < quads; quad++) {
      int8x16x4_t table;
      UNROLL for (int j = 0; j < 4; j++) table.val[j] = vld1q_s8(rows[4 * quad + j] + column);
      const int8x16_t found = vqtbl4q_s8(table, bytes); /* 0 in the lanes of other stretches */
      int8_t* target = packed + quad * step;
      vst1q_s8(target, n == 0 ? found : vorrq_s8(found, vld1q_s8(target)));
      sum = vpadalq_s16(sum, vpaddlq_s8(found));
    }
  }
  if (sums != NULL) vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), sum));
}

/* Four bytes of the image in each lane. */
static inline int8x16_t spread(const uint8_t* p) {
  int32_t bytes;
  memcpy(&bytes, p, sizeof bytes); /* not aligned */
  return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
}

#define LANES 4
#define V float32x4_t
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#define BROADCAST(f) vdupq_n_f32(f)
#define MUL(a, b) vmulq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define MAX(a, b) vmaxq_f32(a, b) /* NaN where either is, which serves as well as b */
#define MIN(a, b) vminq_f32(a, b)
#define WEIGHTS int8x16_t
#define LOAD_WEIGHTS(p) vld1q_s8(p)
#define BYTES int8x16_t
#define SPREAD(p) spread(p)
#define STRETCH 16
#define ORIGIN 128
#define QUADS 16
