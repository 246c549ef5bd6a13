#include "../kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

#define NAME "avx512"
#define LANES 16
#define V __m512
#define ZERO() _mm512_setzero_ps()
#define BROADCAST(f) _mm512_set1_ps(f)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define LOAD_FIRST(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define STORE_FIRST(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), v)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUB(a, b) _mm512_sub_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define ABS(a) _mm512_abs_ps(a)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#define MIN(a, b) _mm512_min_ps(a, b)

#define SELECT __m512i
#define LOAD_SELECT(p) _mm512_loadu_si512(p)
#define MERGE(v, select, p) \
  _mm512_mask_permutexvar_ps(v, _mm512_cmpge_epi32_mask(select, _mm512_setzero_si512()), select, _mm512_loadu_ps(p))

/* 24 of the 32 registers hold sums; the pixels' pointers fill the general registers. */
#define TILE_PIXELS {0, 12, 12, 8}
#define TILES(T) TILES_12(T, 1) TILES_12(T, 2) TILES_8(T, 3)

#define ZIP_INDICES(n)                                                                                           \
  _mm512_setr_epi32(n, 16 + n, n + 1, 17 + n, n + 2, 18 + n, n + 3, 19 + n, n + 4, 20 + n, n + 5, 21 + n, n + 6, \
                    22 + n, n + 7, 23 + n)
#define ZIP_LOW(a, b) _mm512_permutex2var_ps(a, ZIP_INDICES(0), b)
#define ZIP_HIGH(a, b) _mm512_permutex2var_ps(a, ZIP_INDICES(8), b)
#define INSERT(v, lane, w) _mm512_mask_mov_ps(v, (__mmask16)(1u << (lane)), w)
#define KEEP(v) __asm__("" : "+v"(v))

/* 24 registers of sums, and many channels to each vector of windows, since those come from L2: 4 by 4 took 1.4 times
 * as long. One odd pixel takes two registers more. */
#define PIXEL_TILE_CHANNELS {0, 8, 8, 8, 6}
#define PIXEL_TILES(T) T(1, 8) T(2, 8) T(3, 8) T(4, 6)

#include "template.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const FbsKernels* const fbs_kernels_avx512 = &kernels;

#else

const FbsKernels* const fbs_kernels_avx512 = NULL;

#endif
