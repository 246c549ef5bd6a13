#include "../kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

/* The first n of eight lanes: all bits set in a window of this array. */
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#define FIRST(n) _mm256_loadu_si256((const __m256i*)(lane_masks + 8 - (n)))

#define NAME "avx2"
#define LANES 8
#define V __m256
#define ZERO() _mm256_setzero_ps()
#define BROADCAST(f) _mm256_set1_ps(f)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define LOAD_FIRST(p, n) _mm256_maskload_ps(p, FIRST(n))
#define STORE_FIRST(p, v, n) _mm256_maskstore_ps(p, FIRST(n), v)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUB(a, b) _mm256_sub_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define ABS(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#define MIN(a, b) _mm256_min_ps(a, b)

#define SELECT __m256i
#define LOAD_SELECT(p) _mm256_loadu_si256((const __m256i*)(p))
/* blendv looks at the sign alone, so a select of -1 keeps the lane as it is. */
#define MERGE(v, select, p) \
  _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(p), select), v, _mm256_castsi256_ps(select))

/* 12 of the 16 registers hold sums. */
#define TILE_PIXELS {0, 12, 6, 4}
#define TILES(T) TILES_12(T, 1) TILES_6(T, 2) TILES_4(T, 3)

static inline __m256 zip_half(__m256 a, __m256 b, const int high) {
  const __m256 low = _mm256_unpacklo_ps(a, b), up = _mm256_unpackhi_ps(a, b);
  return high ? _mm256_permute2f128_ps(low, up, 0x31) : _mm256_permute2f128_ps(low, up, 0x20);
}
#define ZIP_LOW(a, b) zip_half(a, b, 0)
#define ZIP_HIGH(a, b) zip_half(a, b, 1)
static inline __m256 insert(__m256 v, const int lane, __m256 w) {
  switch (lane) { /* the instruction holds the lane */
    case 0:
      return _mm256_blend_ps(v, w, 1);
    case 1:
      return _mm256_blend_ps(v, w, 2);
    case 2:
      return _mm256_blend_ps(v, w, 4);
    case 3:
      return _mm256_blend_ps(v, w, 8);
    case 4:
      return _mm256_blend_ps(v, w, 16);
    case 5:
      return _mm256_blend_ps(v, w, 32);
    case 6:
      return _mm256_blend_ps(v, w, 64);
    default:
      return _mm256_blend_ps(v, w, 128);
  }
}
#define INSERT(v, lane, w) insert(v, lane, w)
#define KEEP(v) __asm__("" : "+x"(v))

/* 8 to 12 sums of 16 registers: an odd pixel takes two more. */
#define PIXEL_TILE_CHANNELS {0, 8, 5, 4}
#define PIXEL_TILES(T) T(1, 8) T(2, 5) T(3, 4)

#include "template.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const FbsKernels* const fbs_kernels_avx2 = &kernels;

#else

const FbsKernels* const fbs_kernels_avx2 = NULL;

#endif
