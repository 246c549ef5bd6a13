/* Plain C with the compiler's own vectors of four, which every architecture has or gets emulated. */
#include <string.h>

#include "../kernels_int8.h"
#include "../quantisation.h"

typedef float Float4 __attribute__((vector_size(16)));
typedef uint32_t Sums4 __attribute__((vector_size(16))); /* unsigned: partial sums may wrap */

static inline Float4 load(const float* p) { return (Float4){p[0], p[1], p[2], p[3]}; }

static inline void store_first(float* p, Float4 v, int n) {
  for (int i = 0; i < n; i++) p[i] = v[i];
}

static inline Sums4 load_sums(const int32_t* p) {
  Sums4 v;
  memcpy(&v, p, sizeof v);
  return v;
}

static inline Sums4 dot(Sums4 sum, const uint8_t* bytes, const int8_t* weights) {
  for (int lane = 0; lane < 4; lane++) {
    for (int j = 0; j < 4; j++) sum[lane] += (uint32_t)(bytes[j] * weights[4 * lane + j]);
  }
  return sum;
}

static inline Float4 to_float(Sums4 v) {
  return (Float4){(float)(int32_t)v[0], (float)(int32_t)v[1], (float)(int32_t)v[2], (float)(int32_t)v[3]};
}

static inline Float4 larger_of(Float4 a, Float4 b) {
  for (int i = 0; i < 4; i++) b[i] = a[i] > b[i] ? a[i] : b[i];
  return b;
}

static inline Float4 smaller_of(Float4 a, Float4 b) {
  for (int i = 0; i < 4; i++) b[i] = a[i] < b[i] ? a[i] : b[i];
  return b;
}

static void quantise(const float* x, int64_t n, float inverse, int32_t zero, uint8_t* q) {
  for (int64_t i = 0; i < n; i++) q[i] = (uint8_t)fbs_quantise(x[i], inverse, zero);
}

#define NAME "plain"
#define LANES 4
#define SUMS Sums4
#define V Float4
#define LOAD_SUMS(p) load_sums(p)
#define WEIGHTS const int8_t*
#define LOAD_WEIGHTS(p) (p)
#define BYTES const uint8_t*
#define SPREAD(p) (p)
#define DOT(sum, bytes, weights) (sum = dot(sum, bytes, weights))
#define TO_FLOAT(sums) to_float(sums)
#define LOAD(p) load(p)
#define STORE(p, v) store_first(p, v, 4)
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#define BROADCAST(f) ((Float4){f, f, f, f})
#define MUL(a, b) ((a) * (b))
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) larger_of(a, b)
#define MIN(a, b) smaller_of(a, b)

#define STRETCH 64 /* as far as a row can be read beyond its end */
#define ORIGIN 0
#define QUADS 16
#define MAX_VECTORS 2
#define TILE_PIXELS {0, 4, 4}
#define TILES(T) TILES_4(T, 1) TILES_4(T, 2)

#include "int8_template.h"

static void pack_vector(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, int32_t count,
                        int8_t* packed, int64_t step, int32_t* sums) {
  for (int64_t quad = 0; quad < quads; quad++, rows += 4, packed += step) {
    memset(packed, 0, LANES * 4);
    for (int32_t n = 0; n < count; n++) {
      for (int lane = 0; lane < LANES; lane++) {
        if (stretches[n].select[lane] < 0) continue;
        for (int j = 0; j < 4; j++) {
          const int8_t weight = rows[j][stretches[n].column + stretches[n].select[lane]];
          packed[4 * lane + j] = weight;
          if (sums != NULL) sums[lane] += weight;
        }
      }
    }
  }
}

const FbsInt8Kernels* const fbs_int8_kernels_plain = &kernels;
