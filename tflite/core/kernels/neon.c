#include "../kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

static inline float32x4_t load_first(const float* p, int n) {
  float first[4] = {0};
  for (int i = 0; i < n; i++) first[i] = p[i];
  return vld1q_f32(first);
}

static inline void store_first(float* p, float32x4_t v, int n) {
  float first[4];
  vst1q_f32(first, v);
  for (int i = 0; i < n; i++) p[i] = first[i];
}

#define NAME "neon"
#define LANES 4
#define V float32x4_t
#define ZERO() vdupq_n_f32(0)
#define BROADCAST(f) vdupq_n_f32(f)
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define LOAD_FIRST(p, n) load_first(p, n)
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#define ADD(a, b) vaddq_f32(a, b)
#define SUB(a, b) vsubq_f32(a, b)
#define MUL(a, b) vmulq_f32(a, b)
#define ABS(a) vabsq_f32(a)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define MAX(a, b) vmaxq_f32(a, b) /* NaN where either is, which serves as well as b */
#define MIN(a, b) vminq_f32(a, b)

/* Byte s * 4 + {0, 1, 2, 3} of the table; a select of -1 gives bytes outside of it, which TBX leaves alone. */
#define SELECT uint8x16_t
#define LOAD_SELECT(p) vreinterpretq_u8_s32(vaddq_s32(vmulq_n_s32(vld1q_s32(p), 0x04040404), vdupq_n_s32(0x03020100)))
#define MERGE(v, select, p) \
  vreinterpretq_f32_u8(vqtbx1q_u8(vreinterpretq_u8_f32(v), vreinterpretq_u8_f32(vld1q_f32(p)), select))

/* The multiply loop is written out for the cores that execute in order: there, a load must stand several FMLAs before
 * its use, and not next to another load. Compilers keep `volatile` statements in their order, and have the rest to do.
 * Loads of an input pixel are of 64 bits, two channels, because those of 128 stop a Cortex-A55 for two cycles; FMLA
 * takes its factor from a lane. */
#define FMLA(sum, w, x, lane) __asm__ volatile("fmla %0.4s, %1.4s, %2.s[" #lane "]" : "+w"(sum) : "w"(w), "w"(x))
#define LOAD4(v, p, i) __asm__ volatile("ldr %q0, [%1, %2]" : "=w"(v) : "r"(p), "ri"((int64_t)(4 * (i))) : "memory")
#define LOAD2(v, p, i) __asm__ volatile("ldr %d0, [%1, %2]" : "=w"(v) : "r"(p), "r"((int64_t)(4 * (i))) : "memory")

/* Adds input channels i and i + 1, which are loaded: their weights are `first` and, to be loaded here, w + vectors * 4.
 * With `more`, it loads the next two on the way, each as soon as its register is free. */
INLINE void multiply_pair(V sum[][kFbsMaxVectors], V* first, float32x2_t* values, const float* const* x, int64_t i,
                          const float* w, const int pixels, const int vectors, const int more) {
  V second[kFbsMaxVectors];
  UNROLL for (int p = 0; p < pixels; p++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      FMLA(sum[p][v], first[v], values[p], 0);
      if (p == 0) LOAD4(second[v], w, (vectors + v) * LANES);
    }
  }
  UNROLL for (int p = 0; p < pixels; p++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      FMLA(sum[p][v], second[v], values[p], 1);
      if (more && p == 0) LOAD4(first[v], w, (2 * vectors + v) * LANES);
    }
    if (more) LOAD2(values[p], x[p], i + 2);
  }
}

/* Adds all input channels, but for the last of an odd number; returns how many. */
#define MULTIPLY_PAIRS multiply_pairs
INLINE int64_t multiply_pairs(V sum[][kFbsMaxVectors], const float* const* x, const float* w, int64_t depth,
                              const int pixels, const int vectors) {
  if (depth < 2) return 0;
  V first[kFbsMaxVectors];
  float32x2_t values[kFbsMaxPixels];
  int64_t i = 0;
  UNROLL for (int v = 0; v < vectors; v++) LOAD4(first[v], w, v * LANES);
  UNROLL for (int p = 0; p < pixels; p++) LOAD2(values[p], x[p], i);
  for (; i + 4 <= depth; i += 2, w += 2 * vectors * LANES) {
    multiply_pair(sum, first, values, x, i, w, pixels, vectors, 1);
  }
  multiply_pair(sum, first, values, x, i, w, pixels, vectors, 0);
  return i + 2;
}

/* Of 32 registers, 16 to 18 hold sums, one for each pixel its values, and 4 to 6 the weights. */
#define TILE_PIXELS {0, 12, 8, 6}
#define TILES(T) TILES_12(T, 1) TILES_8(T, 2) TILES_6(T, 3)

#define ZIP_LOW(a, b) vzip1q_f32(a, b)
#define ZIP_HIGH(a, b) vzip2q_f32(a, b)
static inline float32x4_t insert(float32x4_t v, const int lane, float32x4_t w) {
  switch (lane) { /* the instruction holds the lane */
    case 0:
      return vcopyq_laneq_f32(v, 0, w, 0);
    case 1:
      return vcopyq_laneq_f32(v, 1, w, 1);
    case 2:
      return vcopyq_laneq_f32(v, 2, w, 2);
    default:
      return vcopyq_laneq_f32(v, 3, w, 3);
  }
}
#define INSERT(v, lane, w) insert(v, lane, w)
#define KEEP(v) __asm__("" : "+w"(v))

/* As many channels as a vector holds; not yet timed on hardware. */
#define PIXEL_TILE_CHANNELS {0, 4, 4, 4, 4}
#define PIXEL_TILES(T) T(1, 4) T(2, 4) T(3, 4) T(4, 4)

#include "template.h"

const FbsKernels* const fbs_kernels_neon = &kernels;

#else

const FbsKernels* const fbs_kernels_neon = NULL;

#endif
