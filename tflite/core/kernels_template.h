/* The kernels, written with the vector operations that the including file defines for its instruction set:
 *
 *   LANES, V                 floats in a vector; its type
 *   ZERO() BROADCAST(f)      all lanes 0; all lanes f
 *   LOAD(p) STORE(p, v)      unaligned
 *   LOAD_FIRST(p, n) STORE_FIRST(p, v, n)   the first n lanes only, 0 < n < LANES; the others read as 0
 *   ADD MUL ABS FMA(a, b, c) the last is a * b + c
 *   MAX(a, b) MIN(a, b)      b where either is NaN
 *   SELECT, LOAD_SELECT(p), MERGE(v, select, p)   (for packing, optional) lanes whose select is s >= 0 become p[s]
 *   STEPS, MULTIPLY_STEPS    (optional) a multiply loop over several input channels at once, with WEIGHTS(i, v)
 *   TILES(T)                 T(pixels, vectors) for every tile size
 *   NAME, TILE_PIXELS        the entries of FbsKernels
 */
#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef struct {
  const FbsMultiplication* all;
  int64_t first_pixel;
  const float* packed; /* [taps][depth][vectors * LANES], or NULL: all->groups */
  int32_t channel;     /* the first one */
  int32_t last_lanes;  /* channels in the last vector */
} Tile;

/* Where a vector of the weights of input channel i lies. */
#define WEIGHTS(i, v) (in_place ? w[v] + rows[i] : w[0] + ((i) * vectors + (v)) * LANES)

/* y[pixel][channel] = act(gate[channel] * (sum_{tap, i} x[pixel, tap, i] * weights[tap][i][channel] + bias[channel]))
 */
INLINE void multiply_tile(const Tile* tile, const int pixels, const int vectors, const int in_place) {
  V sum[kFbsMaxPixels][kFbsMaxVectors];
  UNROLL for (int p = 0; p < pixels; p++) { UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = ZERO(); }
  const FbsMultiplication* all = tile->all;
  const float* w[kFbsMaxVectors]; /* of each vector, or of all of them packed */
  UNROLL for (int v = 0; v < vectors; v++) w[v] = in_place ? all->groups[tile->channel / LANES + v] : tile->packed;
  const int32_t* rows = all->rows;
  const float *input = all->x, *zeros = all->zeros;
  const int64_t depth = all->depth;
  const int32_t* offsets = all->offsets + tile->first_pixel;
  for (int32_t t = 0; t < all->taps; t++, offsets += all->pixels) {
    const float* x[kFbsMaxPixels];
    UNROLL for (int p = 0; p < pixels; p++) x[p] = offsets[p] < 0 ? zeros : input + offsets[p];
    int64_t i = 0;
#ifdef STEPS
    for (; i + STEPS <= depth; i += STEPS) {
      MULTIPLY_STEPS(sum, x, i, pixels, vectors);
    }
#endif
    for (; i < depth; i++) {
      V channels[kFbsMaxVectors];
      if (in_place) {
        UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(w[v] + rows[i + kFbsRowsAhead]);
      }
      UNROLL for (int v = 0; v < vectors; v++) channels[v] = LOAD(WEIGHTS(i, v));
      UNROLL for (int p = 0; p < pixels; p++) {
        const V value = BROADCAST(x[p][i]);
        UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = FMA(value, channels[v], sum[p][v]);
      }
    }
    if (in_place) {
      rows += depth;
    } else {
      w[0] += depth * vectors * LANES;
    }
  }
  const V low = BROADCAST(all->low), high = BROADCAST(all->high);
  V gate[kFbsMaxVectors], bias[kFbsMaxVectors];
  UNROLL for (int v = 0; v < vectors; v++) {
    gate[v] = LOAD(all->gate + tile->channel + v * LANES);
    bias[v] = LOAD(all->bias + tile->channel + v * LANES);
  }
  const int last_lanes = tile->last_lanes;
  float* y = all->y + tile->first_pixel * all->out_active + tile->channel;
  UNROLL for (int p = 0; p < pixels; p++, y += all->out_active) {
    UNROLL for (int v = 0; v < vectors; v++) {
      const V out = MIN(high, MAX(low, MUL(gate[v], ADD(sum[p][v], bias[v]))));
      if (v < vectors - 1 || last_lanes == LANES) {
        STORE(y + v * LANES, out);
      } else {
        STORE_FIRST(y + v * LANES, out, last_lanes);
      }
    }
  }
}

#define DEFINE_TILE(pixels, vectors)                                                                       \
  static void multiply_##pixels##x##vectors(const Tile* tile) { multiply_tile(tile, pixels, vectors, 0); } \
  static void multiply_in_place_##pixels##x##vectors(const Tile* tile) { multiply_tile(tile, pixels, vectors, 1); }
TILES(DEFINE_TILE)

#define TILE_ENTRY(pixels, vectors) \
  [0][vectors][pixels] = multiply_##pixels##x##vectors, [1][vectors][pixels] = multiply_in_place_##pixels##x##vectors,
static void (*const tile_functions[2][kFbsMaxVectors + 1][kFbsMaxPixels + 1])(const Tile*) = {TILES(TILE_ENTRY)};

static void multiply(const FbsMultiplication* all, const FbsPanel* panel, const float* packed, int32_t tiles,
                     int32_t begin, int32_t end) {
  const int32_t channel = panel->first_vector * LANES, last_channel = channel + (panel->vectors - 1) * LANES;
  const int32_t left = all->out_active - last_channel;
  const int32_t smaller = all->pixels / tiles, larger = all->pixels % tiles; /* `larger` tiles have one pixel more */
  Tile tile = {.all = all, .packed = packed, .channel = channel, .last_lanes = left < LANES ? left : LANES};
  for (int32_t i = begin; i < end; i++) {
    tile.first_pixel = (int64_t)i * smaller + (i < larger ? i : larger);
    tile_functions[all->groups != NULL][panel->vectors][smaller + (i < larger)](&tile);
  }
}

#ifdef MERGE
/* Rows packed together, so that their loads overlap and a stretch's select is loaded once for all of them. Zen 5 likes
 * 6 best of 4 to 12. */
enum { kRows = 6 };

static void pack(const FbsPacking* packing, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
                 float* packed) {
  const int64_t taps = packing->taps, depth = packing->depth, out_channels = packing->out_channels;
  for (int64_t group = begin; group < end; group += kRows) {
    const float* source[kRows];
    int64_t target[kRows];
    for (int r = 0; r < kRows; r++) {
      const int64_t row = group + r < end ? group + r : end - 1; /* the last row fills up the last group */
      const int64_t i = row % depth, t = row / depth;
      const int64_t in = packing->in_indices == NULL ? i : packing->in_indices[i];
      source[r] = packing->weights + (in * taps + t) * out_channels;
      target[r] = row;
    }
    float* panel_packed = packed;
    for (int32_t n = 0; n < count; n++) {
      const int64_t width = panels[n].vectors * LANES;
      const int32_t* first = packing->first_stretch + panels[n].first_vector;
      for (int32_t v = 0; v < panels[n].vectors; v++) {
        V row[kRows];
        UNROLL for (int r = 0; r < kRows; r++) row[r] = ZERO();
        const FbsStretch* stop = packing->stretches + first[v + 1];
        for (const FbsStretch* stretch = packing->stretches + first[v]; stretch < stop; stretch++) {
          const SELECT select = LOAD_SELECT(stretch->select);
          UNROLL for (int r = 0; r < kRows; r++) row[r] = MERGE(row[r], select, source[r] + stretch->column);
        }
        UNROLL for (int r = 0; r < kRows; r++) STORE(panel_packed + target[r] * width + v * LANES, row[r]);
      }
      panel_packed += taps * depth * width;
    }
  }
}
#endif

/* Vectors of sums that are held in registers while the loop runs over pixels or rows. */
enum { kSums = 4 };

INLINE void sum_absolute(const float* x, int32_t pixels, int64_t stride, const int vectors, float* sums) {
  V sum[kSums];
  UNROLL for (int v = 0; v < vectors; v++) sum[v] = ZERO();
  for (int32_t p = 0; p < pixels; p++, x += stride) {
    UNROLL for (int v = 0; v < vectors; v++) sum[v] = ADD(sum[v], ABS(LOAD(x + v * LANES)));
  }
  UNROLL for (int v = 0; v < vectors; v++) STORE(sums + v * LANES, sum[v]);
}

static void saliency(const float* x, int32_t pixels, int32_t channels, float* sums) {
  int32_t c = 0;
  for (; c + kSums * LANES <= channels; c += kSums * LANES) sum_absolute(x + c, pixels, channels, kSums, sums + c);
  for (; c + LANES <= channels; c += LANES) sum_absolute(x + c, pixels, channels, 1, sums + c);
  if (c < channels) {
    V sum = ZERO();
    for (int32_t p = 0; p < pixels; p++) {
      sum = ADD(sum, ABS(LOAD_FIRST(x + (int64_t)p * channels + c, channels - c)));
    }
    STORE_FIRST(sums + c, sum, channels - c);
  }
}

INLINE const float* gate_row(const float* gate_kernel, const int32_t* in_indices, int32_t i, int64_t out_channels) {
  return gate_kernel + (in_indices == NULL ? i : in_indices[i]) * out_channels;
}

INLINE void sum_rows(const float* s, const int32_t* in_indices, int32_t depth, const float* gate_kernel,
                     int64_t out_channels, const int vectors, float* g) {
  V sum[kSums];
  UNROLL for (int v = 0; v < vectors; v++) sum[v] = ZERO();
  for (int32_t i = 0; i < depth; i++) {
    const float* row = gate_row(gate_kernel, in_indices, i, out_channels);
    const V value = BROADCAST(s[i]);
    UNROLL for (int v = 0; v < vectors; v++) sum[v] = FMA(value, LOAD(row + v * LANES), sum[v]);
  }
  UNROLL for (int v = 0; v < vectors; v++) STORE(g + v * LANES, sum[v]);
}

static void predict(const float* s, const int32_t* in_indices, int32_t depth, const float* gate_kernel,
                    int32_t out_channels, int32_t begin, int32_t end, float* g) {
  int32_t o = begin;
  for (; o + kSums * LANES <= end; o += kSums * LANES) {
    sum_rows(s, in_indices, depth, gate_kernel + o, out_channels, kSums, g + o);
  }
  for (; o + LANES <= end; o += LANES) {
    sum_rows(s, in_indices, depth, gate_kernel + o, out_channels, 1, g + o);
  }
  if (o < end) {
    V sum = ZERO();
    for (int32_t i = 0; i < depth; i++) {
      const float* row = gate_row(gate_kernel, in_indices, i, out_channels);
      sum = FMA(BROADCAST(s[i]), LOAD_FIRST(row + o, end - o), sum);
    }
    STORE_FIRST(g + o, sum, end - o);
  }
}

#include "in_place_template.h"

static const FbsKernels kernels = {
    .name = NAME,
    .lanes = LANES,
    .tile_pixels = TILE_PIXELS,
#ifdef MERGE
    .pack = pack,
#endif
    .multiply = multiply,
    .pixel_tile_channels = PIXEL_TILE_CHANNELS,
    .copy_windows = copy_windows,
    .multiply_in_place = multiply_in_place,
    .activate_pixels = activate_pixels,
    .saliency = saliency,
    .predict = predict,
};
