/* What the int8 kernels of AVX2 with and without AVX-VNNI share: everything but the product of four bytes. The
 * including file defines WEIGHTS, LOAD_WEIGHTS, BYTES, SPREAD, DOT, NAME and the tiles for int8_template.h. */
#include <immintrin.h>
#include <string.h>

#define LANES 8
#define SUMS __m256i
#define V __m256
#define LOAD_SUMS(p) _mm256_loadu_si256((const __m256i*)(p))
#define TO_FLOAT(sums) _mm256_cvtepi32_ps(sums)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define STORE_FIRST(p, v, n) _mm256_maskstore_ps(p, _mm256_loadu_si256((const __m256i*)(lane_masks + 8 - (n))), v)
#define BROADCAST(f) _mm256_set1_ps(f)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#define MIN(a, b) _mm256_min_ps(a, b)
#define STRETCH 16
#define ORIGIN 0
#define QUADS 16

/* The first n of eight lanes: all bits set in a window of this array. */
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

static inline __m256i spread(const uint8_t* p) {
  int32_t bytes;
  memcpy(&bytes, p, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

/* rint(x * inverse), or more than 255 where it is more, or so little that packing it to 16 bits makes it -2^15. */
static inline __m256i round_8(const float* x, __m256 inverse) {
  const __m256 v = _mm256_min_ps(_mm256_set1_ps(512), _mm256_mul_ps(_mm256_loadu_ps(x), inverse)); /* NaN stays */
  const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_ORD_Q));
  return _mm256_and_si256(_mm256_cvtps_epi32(v), number);
}

static inline void quantise_32(const float* x, __m256 inverse, __m256i zeros, uint8_t* q) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i low = _mm256_packs_epi32(round_8(x, inverse), round_8(x + 8, inverse));
  const __m256i high = _mm256_packs_epi32(round_8(x + 16, inverse), round_8(x + 24, inverse));
  const __m256i bytes = _mm256_packus_epi16(_mm256_adds_epi16(low, zeros), _mm256_adds_epi16(high, zeros));
  _mm256_storeu_si256((__m256i*)q, _mm256_permutevar8x32_epi32(bytes, order));
}

static void quantise(const float* x, int64_t n, float inverse, int32_t zero, uint8_t* q) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i zeros = _mm256_set1_epi16((int16_t)zero);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) quantise_32(x + i, factor, zeros, q + i);
  if (i < n) {
    float last[32] = {0};
    uint8_t bytes[32];
    memcpy(last, x + i, sizeof(float) * (size_t)(n - i));
    quantise_32(last, factor, zeros, bytes);
    memcpy(q + i, bytes, (size_t)(n - i));
  }
}

#include "int8_template.h"

/* The sum of each four bytes: of pairs, which fit into 16 bits, and then of these. */
static inline __m256i add_quads(__m256i sum, __m256i weights) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), weights);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static void pack_vector(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, int32_t count,
                        int8_t* packed, int64_t step, int32_t* sums) {
  const __m256i replicate =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  __m256i sum = sums == NULL ? _mm256_setzero_si256() : LOAD_SUMS(sums);
  for (int32_t n = 0; n < count; n++) {
    const __m256i bytes = _mm256_shuffle_epi8(LOAD_SUMS(stretches[n].select), replicate);
    __m256i select[4]; /* of each row; 0 where the byte is another's, since the highest bit is set */
    UNROLL for (int j = 0; j < 4; j++) {
      select[j] = _mm256_or_si256(bytes, _mm256_set1_epi32((int32_t)(0x80808080u & ~(0x80u << (8 * j)))));
    }
    const int32_t column = stretches[n].column;
    for (int64_t quad = 0; quad < quads; quad++) {
      __m256i* target = (__m256i*)(packed + quad * step);
      __m256i v = _mm256_setzero_si256();
      UNROLL for (int j = 0; j < 4; j++) {
        const __m128i row = _mm_loadu_si128((const __m128i*)(rows[4 * quad + j] + column));
        v = _mm256_or_si256(v, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row), select[j]));
      }
      if (sums != NULL) sum = add_quads(sum, v);
      _mm256_store_si256(target, n > 0 ? _mm256_or_si256(v, _mm256_load_si256(target)) : v);
    }
  }
  if (sums != NULL) _mm256_storeu_si256((__m256i*)sums, sum);
}
