/* AVX-512 with VNNI, which multiplies and adds four bytes, and VBMI, which permutes bytes. */
#include "kernels_int8.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vnni,avx512vbmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vnni,avx512vbmi")
#endif

#define NAME "avx512vnni"
#define LANES 16
#define SUMS __m512i
#define V __m512
#define LOAD_SUMS(p) _mm512_loadu_si512(p)
#define WEIGHTS __m512i
#define LOAD_WEIGHTS(p) _mm512_load_si512(p)
#define BYTES __m512i
#define SPREAD(p) spread(p)
/* As the intrinsic, for which gcc 12 copies every sum in each round of the loop, which doubles its time. */
#define DOT(sum, bytes, weights) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights))
#define TO_FLOAT(sums) _mm512_cvtepi32_ps(sums)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define STORE_FIRST(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), v)
#define BROADCAST(f) _mm512_set1_ps(f)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#define MIN(a, b) _mm512_min_ps(a, b)

#define STRETCH 64
#define ORIGIN 0
/* 24 of the 32 registers hold sums; 10 pixels' pointers fill the general registers. */
#define MAX_VECTORS 4
#define TILE_PIXELS {0, 10, 10, 8, 6}
#define TILES(T) TILES_8(T, 1) T(9, 1) T(10, 1) TILES_8(T, 2) T(9, 2) T(10, 2) TILES_8(T, 3) TILES_6(T, 4)

static inline __m512i spread(const uint8_t* p) {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

/* rint(x * inverse), or more than 255 where it is more, or so little that packing it to 16 bits makes it -2^15. */
static inline __m512i round_16(__m512 x, __m512 inverse) {
  const __m512 v = _mm512_min_ps(_mm512_set1_ps(512), _mm512_mul_ps(x, inverse)); /* NaN stays */
  return _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v);
}

/* Of 64 values, those whose bit in `used` is set. */
INLINE void quantise_64(const float* x, __m512 inverse, __m512i zeros, __mmask64 used, uint8_t* q) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i v[4];
  UNROLL for (int j = 0; j < 4; j++) {
    v[j] = round_16(_mm512_maskz_loadu_ps((__mmask16)(used >> (16 * j)), x + 16 * j), inverse);
  }
  const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zeros);
  const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), zeros);
  _mm512_mask_storeu_epi8(q, used, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}

static void quantise(const float* x, int64_t n, float inverse, int32_t zero, uint8_t* q) {
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i zeros = _mm512_set1_epi16((int16_t)zero);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) quantise_64(x + i, factor, zeros, ~0ull, q + i);
  if (i < n) quantise_64(x + i, factor, zeros, ~(~0ull << (n - i)), q + i);
}

#include "kernels_int8_template.h"

/* 32 bytes of one row, and then of another. */
static inline __m512i two_rows(const int8_t* a, const int8_t* b) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)a)),
                            _mm256_loadu_si256((const __m256i*)b), 1);
}

static void pack_vector(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, int32_t count,
                        int8_t* packed, int64_t step, int32_t* sums) {
  const __mmask64 first_rows = 0x3333333333333333; /* bytes from the first two rows of a quad */
  const __m512i replicate = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  __m512i sum = sums == NULL ? _mm512_setzero_si512() : _mm512_loadu_si512(sums);
  for (int32_t n = 0; n < count; n++) {
    const __m512i columns = _mm512_loadu_si512(stretches[n].select);
    const __m512i bytes = _mm512_shuffle_epi8(columns, replicate);
    const __mmask64 here = ~_mm512_movepi8_mask(bytes);
    const int narrow = _mm512_cmpge_epi32_mask(columns, _mm512_set1_epi32(32)) == 0;
    const __m512i rows_first = _mm512_set1_epi32(narrow ? 0x60402000 : 0x40004000); /* in the tables of a permutation */
    const __m512i select = _mm512_maskz_add_epi8(here, bytes, rows_first);
    const int32_t column = stretches[n].column;
    for (int64_t quad = 0; quad < quads; quad++) {
      const int8_t* const* r = rows + 4 * quad;
      __m512i v;
      if (narrow) {
        v = _mm512_maskz_permutex2var_epi8(here, two_rows(r[0] + column, r[1] + column), select,
                                           two_rows(r[2] + column, r[3] + column));
      } else { /* each permutation leaves the bytes that are not its own as they are */
        v = _mm512_mask2_permutex2var_epi8(_mm512_loadu_si512(r[0] + column), select, here & first_rows,
                                           _mm512_loadu_si512(r[1] + column));
        v = _mm512_mask2_permutex2var_epi8(_mm512_loadu_si512(r[2] + column), v, here & ~first_rows,
                                           _mm512_loadu_si512(r[3] + column));
      }
      if (sums != NULL) DOT(sum, _mm512_set1_epi8(1), v);
      if (n > 0) v = _mm512_or_si512(v, _mm512_load_si512(packed + quad * step));
      _mm512_store_si512(packed + quad * step, v);
    }
  }
  if (sums != NULL) _mm512_storeu_si512(sums, sum);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const FbsInt8Kernels* const fbs_int8_kernels_avx512vnni = &kernels;

#else

const FbsInt8Kernels* const fbs_int8_kernels_avx512vnni = NULL;

#endif
