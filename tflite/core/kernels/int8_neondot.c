/* For an AArch64 with SDOT, which multiplies and adds four bytes in each lane. */
#if defined(__aarch64__)

#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include "int8_neon.h"

/* The multiply loop is written out as that of neon.c is, and for the same reasons. */
#define SDOT(sum, w, x, lane) __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(sum) : "w"(w), "w"(x))
#define LOAD_QUAD(v, p, i) __asm__ volatile("ldr %q0, [%1, %2]" : "=w"(v) : "r"(p), "ri"((int64_t)(i)) : "memory")
#define LOAD_EIGHT(v, p, i) __asm__ volatile("ldr %d0, [%1, %2]" : "=w"(v) : "r"(p), "r"((int64_t)(i)) : "memory")

/* Adds two quads, which are loaded: bytes i to i + 7 of each window are in `values`, the weights of the first four of
 * them `first`; those of the others are loaded here. With `more`, it loads the next two quads on the way, each register
 * as soon as it is free. */
INLINE void multiply_two(int32x4_t sum[][kFbsInt8MaxVectors], int8x16_t* first, int8x8_t* values,
                         const uint8_t* const* x, int64_t i, const int8_t* w, const int pixels, const int vectors,
                         const int more) {
  int8x16_t second[kFbsInt8MaxVectors];
  UNROLL for (int p = 0; p < pixels; p++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      SDOT(sum[p][v], first[v], values[p], 0);
      if (p == 0) LOAD_QUAD(second[v], w, (vectors + v) * 16);
    }
  }
  UNROLL for (int p = 0; p < pixels; p++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      SDOT(sum[p][v], second[v], values[p], 1);
      if (more && p == 0) LOAD_QUAD(first[v], w, (2 * vectors + v) * 16);
    }
    if (more) LOAD_EIGHT(values[p], x[p], i + 8);
  }
}

/* Adds the quads of a run, but for the last of an odd number; returns how many. */
#define MULTIPLY_QUADS multiply_two_by_two
INLINE int64_t multiply_two_by_two(int32x4_t sum[][kFbsInt8MaxVectors], const uint8_t* const* windows, int64_t i,
                                   const int8_t* w, int64_t quads, const int pixels, const int vectors) {
  if (quads < 2) return 0;
  const uint8_t* x[kFbsInt8MaxPixels]; /* in registers */
  UNROLL for (int p = 0; p < pixels; p++) x[p] = windows[p];
  int8x16_t first[kFbsInt8MaxVectors];
  int8x8_t values[kFbsInt8MaxPixels];
  int64_t quad = 0;
  UNROLL for (int v = 0; v < vectors; v++) LOAD_QUAD(first[v], w, v * 16);
  UNROLL for (int p = 0; p < pixels; p++) LOAD_EIGHT(values[p], x[p], i);
  for (; quad + 4 <= quads; quad += 2, i += 8, w += 2 * vectors * 16) {
    multiply_two(sum, first, values, x, i, w, pixels, vectors, 1);
  }
  multiply_two(sum, first, values, x, i, w, pixels, vectors, 0);
  return quad + 2;
}

#define NAME "neondot"
#define SUMS int32x4_t
#define LOAD_SUMS(p) vld1q_s32(p)
#define DOT(sum, bytes, weights) SDOT(sum, weights, bytes, 0)
#define TO_FLOAT(sums) vcvtq_f32_s32(sums)

/* Of 32 registers, 12 to 18 hold sums, one for each pixel its bytes, and 4 to 6 the weights. */
#define MAX_VECTORS 3
#define TILE_PIXELS {0, 12, 8, 6}
#define TILES(T) TILES_12(T, 1) TILES_8(T, 2) TILES_6(T, 3)

#include "int8_template.h"

const FbsInt8Kernels* const fbs_int8_kernels_neondot = &kernels;

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

#include "../kernels_int8.h"

const FbsInt8Kernels* const fbs_int8_kernels_neondot = NULL;

#endif
