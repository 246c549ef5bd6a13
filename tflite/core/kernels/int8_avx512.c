/* AVX-512 with VNNI, which multiplies and adds four bytes, and VBMI, which permutes bytes. */
#include "../kernels_int8.h"

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

#define STRETCH INT32_MAX /* one for each vector: lines of 64 columns are cut below */
#define ORIGIN 0
#define PACK_PANEL
#define QUADS 32 /* 96 of 192 channels take 1.7 us, and 1.8 with 16 (Zen 5) */
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

#include "int8_template.h"

enum { kLines = 4 }; /* lines of 64 columns that a panel is packed from in one pass */

/* Where a panel's winners are: select is the column within a line for each of them, where[line] has those in that
 * line. Of the first line, only the columns in `inside` are read: others may lie before the weights. */
typedef struct {
  __m512i select;
  __mmask64 where[kLines], inside;
  int64_t column; /* the first line's first */
} Lines;

/* The winners' weights of a row. */
INLINE __m512i gather(const int8_t* row, const Lines* from, const int lines) {
  row += from->column;
  const __m512i first = _mm512_maskz_loadu_epi8(from->inside, row);
  __m512i v = _mm512_maskz_permutexvar_epi8(from->where[0], from->select, first);
  UNROLL for (int n = 1; n < lines; n++) {
    v = _mm512_mask_permutexvar_epi8(v, from->where[n], from->select, _mm512_loadu_si512(row + n * kLine));
  }
  return v;
}

/* One pass over the quads: `merge` adds to what former ones have packed. */
INLINE void pack_lines(const int8_t* const* rows, int64_t quads, const Lines* from, const int lines, int merge,
                       int32_t vectors, int8_t* packed, int32_t* sums) {
  const Lines all = *from; /* in registers */
  __m512i sum[MAX_VECTORS] = {0};
  for (int64_t quad = 0; quad < quads; quad++, rows += 4) {
    const __m512i row0 = gather(rows[0], &all, lines), row1 = gather(rows[1], &all, lines);
    const __m512i row2 = gather(rows[2], &all, lines), row3 = gather(rows[3], &all, lines);
    const __m512i low01 = _mm512_unpacklo_epi8(row0, row1), low23 = _mm512_unpacklo_epi8(row2, row3);
    const __m512i high01 = _mm512_unpackhi_epi8(row0, row1), high23 = _mm512_unpackhi_epi8(row2, row3);
    __m512i out[MAX_VECTORS] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                                _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
    UNROLL for (int v = 0; v < MAX_VECTORS; v++) {
      if (v == vectors) break;
      if (sums != NULL) DOT(sum[v], _mm512_set1_epi8(1), out[v]);
      if (merge) out[v] = _mm512_or_si512(out[v], _mm512_load_si512(packed));
      _mm512_store_si512(packed, out[v]);
      packed += kLine;
    }
  }
  for (int32_t v = 0; v < vectors && sums != NULL; v++, sums += LANES) {
    _mm512_storeu_si512(sums, _mm512_add_epi32(sum[v], _mm512_loadu_si512(sums)));
  }
}

/* Bytes in the order that gathered rows want, so that interleaving them leaves each vector's lanes in theirs: from the
 * lowest 16 bits of each lane. */
INLINE __m512i pack_bytes(const __m512i* v) {
  return _mm512_packus_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
}

/* The weights of 64 winners in a row are gathered from the row's lines, each of which one permutation brings into
 * place, and then interleaved with those of three other rows. Where all rows begin at the same place of a line of the
 * cache, the lines are those: 96 of 192 channels take 1.7 us then, 2.1 from the first winner's column on, and 2.3 with
 * two permutations for each vector of winners (Zen 5). */
static void pack_panel(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, const int32_t* first,
                       int32_t vectors, int8_t* packed, int32_t* sums) {
  const uintptr_t begin = (uintptr_t)rows[0] + (uintptr_t)stretches[first[0]].column;
  const int32_t before = ((uintptr_t)rows[1] - (uintptr_t)rows[0]) % kLine == 0 ? (int32_t)(begin % kLine) : 0;
  const int32_t column = stretches[first[0]].column - before;
  __m512i columns[MAX_VECTORS]; /* from `column` on; -1 where there is no winner */
  for (int v = 0; v < MAX_VECTORS; v++) {
    columns[v] = _mm512_set1_epi32(-1);
    if (v >= vectors) continue;
    const FbsStretch* stretch = &stretches[first[v]];
    const __m512i select = _mm512_loadu_si512(stretch->select);
    const __mmask16 used = _mm512_cmpge_epi32_mask(select, _mm512_setzero_si512());
    columns[v] = _mm512_mask_add_epi32(select, used, select, _mm512_set1_epi32(stretch->column - column));
  }
  const int32_t last = _mm512_reduce_max_epi32(columns[vectors - 1]);
  for (int32_t passed = 0; passed <= last; passed += kLines * kLine) {
    __m512i line[MAX_VECTORS], select[MAX_VECTORS];
    for (int v = 0; v < MAX_VECTORS; v++) {
      const __m512i left = _mm512_sub_epi32(columns[v], _mm512_set1_epi32(passed));
      line[v] = _mm512_min_epu32(_mm512_srli_epi32(left, 6), _mm512_set1_epi32(kLines)); /* also where left < 0 */
      select[v] = _mm512_and_si512(left, _mm512_set1_epi32(kLine - 1));
    }
    Lines from = {.select = pack_bytes(select), .inside = passed == 0 ? ~0ull << before : ~0ull};
    from.column = column + passed;
    const __m512i lines = pack_bytes(line);
    for (int n = 0; n < kLines; n++) from.where[n] = _mm512_cmpeq_epi8_mask(lines, _mm512_set1_epi8((char)n));
    const int merge = passed > 0;
    switch ((last - passed) / kLine) {
      case 0:
        pack_lines(rows, quads, &from, 1, merge, vectors, packed, sums);
        break;
      case 1:
        pack_lines(rows, quads, &from, 2, merge, vectors, packed, sums);
        break;
      case 2:
        pack_lines(rows, quads, &from, 3, merge, vectors, packed, sums);
        break;
      default:
        pack_lines(rows, quads, &from, 4, merge, vectors, packed, sums);
    }
  }
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
