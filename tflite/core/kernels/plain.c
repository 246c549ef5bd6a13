/* Plain C with the compiler's own vectors of four, which every architecture has or gets emulated. */
#include "../kernels.h"

typedef float Float4 __attribute__((vector_size(16)));
typedef const int32_t* Select;

static inline Float4 load(const float* p) { return (Float4){p[0], p[1], p[2], p[3]}; }

static inline void store(float* p, Float4 v) {
  for (int i = 0; i < 4; i++) p[i] = v[i];
}

static inline Float4 load_first(const float* p, int n) {
  Float4 v = {0};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
}

static inline void store_first(float* p, Float4 v, int n) {
  for (int i = 0; i < n; i++) p[i] = v[i];
}

static inline Float4 absolute(Float4 v) {
  for (int i = 0; i < 4; i++) v[i] = __builtin_fabsf(v[i]);
  return v;
}

static inline Float4 larger(Float4 a, Float4 b) {
  for (int i = 0; i < 4; i++) b[i] = a[i] > b[i] ? a[i] : b[i];
  return b;
}

static inline Float4 smaller(Float4 a, Float4 b) {
  for (int i = 0; i < 4; i++) b[i] = a[i] < b[i] ? a[i] : b[i];
  return b;
}

static inline Float4 merge(Float4 v, Select select, const float* p) {
  for (int i = 0; i < 4; i++) v[i] = select[i] < 0 ? v[i] : p[select[i]];
  return v;
}

#define NAME "plain"
#define LANES 4
#define V Float4
#define ZERO() ((Float4){0})
#define BROADCAST(f) ((Float4){f, f, f, f})
#define LOAD(p) load(p)
#define STORE(p, v) store(p, v)
#define LOAD_FIRST(p, n) load_first(p, n)
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define MUL(a, b) ((a) * (b))
#define ABS(a) absolute(a)
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) larger(a, b)
#define MIN(a, b) smaller(a, b)

#define SELECT Select
#define LOAD_SELECT(p) (p)
#define MERGE(v, select, p) merge(v, select, p)

/* 12 sums: the baseline of x86-64 has 16 registers of four floats. */
#define TILE_PIXELS {0, 8, 6, 4}
#define TILES(T) TILES_8(T, 1) TILES_6(T, 2) TILES_4(T, 3)

#define ZIP_LOW(a, b) ((Float4){(a)[0], (b)[0], (a)[1], (b)[1]})
#define ZIP_HIGH(a, b) ((Float4){(a)[2], (b)[2], (a)[3], (b)[3]})
static inline Float4 insert(Float4 v, int lane, Float4 w) {
  v[lane] = w[lane];
  return v;
}
#define INSERT(v, lane, w) insert(v, lane, w)
#define KEEP(v)

#define PIXEL_TILE_CHANNELS {0, 4, 4}
#define PIXEL_TILES(T) T(1, 4) T(2, 4)

#include "template.h"

const FbsKernels* const fbs_kernels_plain = &kernels;
