/* AVX2 alone. Its product of four bytes (vpmaddubsw) saturates at 16 bits, so bytes are widened to 16 bits: those of
 * even places in a quad, and those of odd ones. */
#include "../kernels_int8.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include <immintrin.h>

typedef struct {
  __m256i even, odd;
} Widened;

static inline __attribute__((always_inline)) Widened widen_weights(const int8_t* p) {
  const __m256i w = _mm256_load_si256((const __m256i*)p);
  return (Widened){_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
}

static inline __attribute__((always_inline)) Widened widen_bytes(__m256i x) {
  return (Widened){_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srli_epi16(x, 8)};
}

static inline __attribute__((always_inline)) __m256i dot(__m256i sum, Widened x, Widened w) {
  const __m256i even = _mm256_madd_epi16(x.even, w.even), odd = _mm256_madd_epi16(x.odd, w.odd);
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

#define NAME "avx2"
#define WEIGHTS Widened
#define LOAD_WEIGHTS(p) widen_weights(p)
#define BYTES Widened
#define SPREAD(p) widen_bytes(spread(p))
#define DOT(sum, bytes, weights) (sum = dot(sum, bytes, weights))

/* 8 of the 16 registers hold sums, and 4 the weights. */
#define MAX_VECTORS 2
#define TILE_PIXELS {0, 8, 4}
#define TILES(T) TILES_8(T, 1) TILES_4(T, 2)

#include "int8_avx2.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const FbsInt8Kernels* const fbs_int8_kernels_avx2 = &kernels;

#else

const FbsInt8Kernels* const fbs_int8_kernels_avx2 = NULL;

#endif
