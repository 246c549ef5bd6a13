/* The kernels, written with the vector operations that the including file defines for its instruction set:
 *
 *   LANES, V                 floats in a vector; its type
 *   ZERO() BROADCAST(f)      all lanes 0; all lanes f
 *   LOAD(p) STORE(p, v)      unaligned
 *   LOAD_FIRST(p, n) STORE_FIRST(p, v, n)   the first n lanes only, 0 < n < LANES; the others read as 0
 *   ADD MUL ABS FMA(a, b, c) the last is a * b + c
 *   MAX(a, b) MIN(a, b)      b where either is NaN
 *   SELECT, LOAD_SELECT(p), MERGE(v, select, p)   lanes whose select is s >= 0 become p[s]
 *   MULTIPLY_PAIRS           (optional) the multiply loop over packed weights for an even number of input channels
 *   TILES(T)                 T(pixels, vectors) for every tile size
 *   NAME, TILE_PIXELS        the entries of FbsKernels
 */
#include "../kernels.h"

typedef struct {
  const FbsMultiplication* all;
  int64_t first_pixel;
  const float* packed; /* [taps][depth][vectors * LANES], or NULL: all->groups */
  int32_t channel;     /* the first one */
  int32_t last_lanes;  /* channels in the last vector */
} Tile;

/* What a tile's function does: multiply packed weights, or those that all->groups points to, and finish the layer; or
 * write the sums of packed weights alone. */
enum { kPacked, kInPlace, kSumsOnly };

/* Where a vector of the weights of input channel i lies. */
#define WEIGHTS(i, v) (mode == kInPlace ? w[v] + rows[i] : w[0] + ((i) * vectors + (v)) * LANES)

/* y[pixel][channel] = act(gate[channel] * (bias[channel] + sum_{tap, i} x[pixel, tap, i] * weights[tap][i][channel]))
 */
INLINE void multiply_tile(const Tile* tile, const int pixels, const int vectors, const int mode) {
  const FbsMultiplication* all = tile->all;
  V sum[kFbsMaxPixels][kFbsMaxVectors];
  const float* w[kFbsMaxVectors]; /* of each vector, or of all of them packed */
  UNROLL for (int v = 0; v < vectors; v++) {
    const V bias = mode == kSumsOnly ? ZERO() : LOAD(all->bias + tile->channel + v * LANES);
    UNROLL for (int p = 0; p < pixels; p++) sum[p][v] = bias;
    w[v] = mode == kInPlace ? all->groups[tile->channel / LANES + v] : tile->packed;
  }
  const int32_t* rows = all->rows;
  const float *input = all->x, *zeros = all->zeros;
  const int64_t depth = all->depth;
  const int32_t* offsets = all->offsets + tile->first_pixel;
  for (int32_t t = 0; t < all->taps; t++, offsets += all->pixels) {
    const float* x[kFbsMaxPixels];
    UNROLL for (int p = 0; p < pixels; p++) x[p] = offsets[p] < 0 ? zeros : input + offsets[p];
    int64_t i = 0;
#ifdef MULTIPLY_PAIRS
    if (mode != kInPlace) i = MULTIPLY_PAIRS(sum, x, w[0], depth, pixels, vectors);
#endif
    for (; i < depth; i++) {
      V channels[kFbsMaxVectors];
      if (mode == kInPlace) {
        UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(w[v] + rows[i + kFbsRowsAhead]);
      }
      UNROLL for (int v = 0; v < vectors; v++) channels[v] = LOAD(WEIGHTS(i, v));
      UNROLL for (int p = 0; p < pixels; p++) {
        const V value = BROADCAST(x[p][i]);
        UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = FMA(value, channels[v], sum[p][v]);
      }
    }
    if (mode == kInPlace) {
      rows += depth;
    } else {
      w[0] += depth * vectors * LANES;
    }
  }
  float* y = all->y + tile->first_pixel * all->out_active + tile->channel;
  if (mode == kSumsOnly) {
    UNROLL for (int p = 0; p < pixels; p++, y += all->out_active) {
      UNROLL for (int v = 0; v < vectors; v++) STORE(y + v * LANES, sum[p][v]);
    }
    return;
  }
  const V low = BROADCAST(all->low), high = BROADCAST(all->high);
  V gate[kFbsMaxVectors];
  UNROLL for (int v = 0; v < vectors; v++) gate[v] = LOAD(all->gate + tile->channel + v * LANES);
  const int last_lanes = tile->last_lanes;
  UNROLL for (int p = 0; p < pixels; p++, y += all->out_active) {
    UNROLL for (int v = 0; v < vectors; v++) {
      const V out = MIN(high, MAX(low, MUL(gate[v], sum[p][v])));
      if (v < vectors - 1 || last_lanes == LANES) {
        STORE(y + v * LANES, out);
      } else {
        STORE_FIRST(y + v * LANES, out, last_lanes);
      }
    }
  }
}

#define DEFINE_TILE(pixels, vectors)                                                                             \
  static void multiply_##pixels##x##vectors(const Tile* tile) { multiply_tile(tile, pixels, vectors, kPacked); } \
  static void multiply_in_place_##pixels##x##vectors(const Tile* tile) {                                         \
    multiply_tile(tile, pixels, vectors, kInPlace);                                                              \
  }                                                                                                              \
  static void multiply_sums_##pixels##x##vectors(const Tile* tile) { multiply_tile(tile, pixels, vectors, kSumsOnly); }
TILES(DEFINE_TILE)

typedef void (*const TileFunctions[kFbsMaxVectors + 1][kFbsMaxPixels + 1])(const Tile*);
#define TILE_ENTRY(pixels, vectors) [vectors][pixels] = multiply_##pixels##x##vectors,
static TileFunctions packed_tiles = {TILES(TILE_ENTRY)};
#define IN_PLACE_ENTRY(pixels, vectors) [vectors][pixels] = multiply_in_place_##pixels##x##vectors,
static TileFunctions in_place_tiles = {TILES(IN_PLACE_ENTRY)};
#define SUMS_ENTRY(pixels, vectors) [vectors][pixels] = multiply_sums_##pixels##x##vectors,
static TileFunctions sums_tiles = {TILES(SUMS_ENTRY)};

static void multiply_tiles(TileFunctions functions, const FbsMultiplication* all, const FbsPanel* panel,
                           const float* packed, int32_t tiles, int32_t begin, int32_t end) {
  const int32_t channel = panel->first_vector * LANES, last_channel = channel + (panel->vectors - 1) * LANES;
  const int32_t left = all->out_active - last_channel;
  const int32_t smaller = all->pixels / tiles, larger = all->pixels % tiles; /* `larger` tiles have one pixel more */
  Tile tile = {.all = all, .packed = packed, .channel = channel, .last_lanes = left < LANES ? left : LANES};
  for (int32_t i = begin; i < end; i++) {
    tile.first_pixel = (int64_t)i * smaller + (i < larger ? i : larger);
    functions[panel->vectors][smaller + (i < larger)](&tile);
  }
}

static void multiply(const FbsMultiplication* all, const FbsPanel* panel, const float* packed, int32_t tiles,
                     int32_t begin, int32_t end) {
  multiply_tiles(all->groups != NULL ? in_place_tiles : packed_tiles, all, panel, packed, tiles, begin, end);
}

static void multiply_sums(const FbsMultiplication* all, const FbsPanel* panel, const float* packed, int32_t tiles,
                          int32_t begin, int32_t end) {
  multiply_tiles(sums_tiles, all, panel, packed, tiles, begin, end);
}

/* Rows packed together, so that their loads overlap and a stretch's select is loaded once for all of them. Zen 5 likes
 * 6 best of 4 to 12. */
enum { kRows = 6 };

static void pack(const FbsPacking* packing, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
                 float* packed) {
  const int64_t taps = packing->taps, depth = packing->depth, out_channels = packing->out_channels;
  int64_t t = begin / depth, i = begin % depth; /* of the next row */
  for (int64_t group = begin; group < end; group += kRows) {
    const float* source[kRows];
    int64_t target[kRows];
    for (int r = 0; r < kRows; r++) {
      if (group + r < end) {
        const int64_t in = packing->in_indices == NULL ? i : packing->in_indices[i];
        source[r] = packing->weights + (in * taps + t) * out_channels;
        target[r] = group + r;
        if (++i == depth) i = 0, t++;
      } else { /* the last row fills up the last group */
        source[r] = source[r - 1];
        target[r] = target[r - 1];
      }
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

/* Pixels added together, so that their loads overlap and a stretch's select is loaded once for all of them. 32 of 64
 * channels written to 56x56 pixels take 12.0 us with 8, 12.7 or 13.1 with 6 or 4 (AVX-512 on Zen 5). */
enum { kAddPixels = 8 };

/* Adds the addend's values for one vector of channels, the first `lanes` of it, to the sums of `pixels` pixels. */
INLINE void add_addend(const FbsAddend* addend, int64_t first_pixel, int64_t vector, const int pixels,
                       const int32_t lanes, V* sum) {
  const int64_t width = addend->active;
  const float* x = addend->x + first_pixel * width;
  if (addend->indices == NULL) {
    x += vector * LANES;
    UNROLL for (int p = 0; p < pixels; p++) {
      sum[p] = ADD(sum[p], lanes == LANES ? LOAD(x + p * width) : LOAD_FIRST(x + p * width, lanes));
    }
    return;
  }
  const FbsStretch* stop = addend->stretches + addend->first_stretch[vector + 1];
  for (const FbsStretch* stretch = addend->stretches + addend->first_stretch[vector]; stretch < stop; stretch++) {
    const SELECT select = LOAD_SELECT(stretch->select);
    UNROLL for (int p = 0; p < pixels; p++) {
      sum[p] = ADD(sum[p], MERGE(ZERO(), select, x + p * width + stretch->column));
    }
  }
}

INLINE void add_vector(const FbsAddition* all, int64_t first_pixel, int64_t vector, const int pixels,
                       const int32_t lanes) {
  V sum[kAddPixels];
  UNROLL for (int p = 0; p < pixels; p++) sum[p] = ZERO();
  for (const FbsAddend* addend = all->addends; addend < all->addends + all->count; addend++) {
    add_addend(addend, first_pixel, vector, pixels, lanes, sum);
  }
  const V low = BROADCAST(all->low), high = BROADCAST(all->high);
  const int64_t channels = all->channels;
  float* y = all->y + first_pixel * channels + vector * LANES;
  UNROLL for (int p = 0; p < pixels; p++) {
    const V out = MIN(high, MAX(low, sum[p]));
    if (lanes == LANES) {
      STORE(y + p * channels, out);
    } else {
      STORE_FIRST(y + p * channels, out, lanes);
    }
  }
}

INLINE void add_pixels(const FbsAddition* all, int64_t first_pixel, const int pixels) {
  const int32_t whole = all->channels / LANES, left = all->channels % LANES;
  for (int32_t v = 0; v < whole; v++) add_vector(all, first_pixel, v, pixels, LANES);
  if (left > 0) add_vector(all, first_pixel, whole, pixels, left);
}

static void add(const FbsAddition* all, int64_t begin, int64_t end) {
  int64_t pixel = begin;
  for (; pixel + kAddPixels <= end; pixel += kAddPixels) add_pixels(all, pixel, kAddPixels);
  for (; pixel < end; pixel++) add_pixels(all, pixel, 1);
}

/* Vectors of sums that are held in registers while the loop runs over pixels or rows. */
enum { kSums = 4 };

/* Of the values seen by each lane. */
typedef struct {
  V low, high;
} Ranges;

INLINE void widen(Ranges* ranges, V x) {
  ranges->low = MIN(x, ranges->low);
  ranges->high = MAX(x, ranges->high);
}

/* `ranges` is NULL where they are not wanted. */
INLINE void sum_absolute(const float* x, int32_t pixels, int64_t stride, const int vectors, float* sums,
                         Ranges* ranges) {
  V sum[kSums];
  Ranges seen[kSums];
  UNROLL for (int v = 0; v < vectors; v++) {
    sum[v] = ZERO();
    if (ranges != NULL) seen[v] = *ranges;
  }
  for (int32_t p = 0; p < pixels; p++, x += stride) {
    UNROLL for (int v = 0; v < vectors; v++) {
      const V value = LOAD(x + v * LANES);
      sum[v] = ADD(sum[v], ABS(value));
      if (ranges != NULL) widen(&seen[v], value);
    }
  }
  UNROLL for (int v = 0; v < vectors; v++) {
    STORE(sums + v * LANES, sum[v]);
    if (ranges != NULL) {
      widen(ranges, seen[v].low);
      widen(ranges, seen[v].high);
    }
  }
}

/* Maps so narrow that LANES pixels are no more than kSums vectors: lane l of vector v holds channel
 * (v * LANES + l) % channels. Returns how many pixels were summed. */
INLINE int32_t sum_narrow(const float* x, int32_t pixels, const int32_t channels, float* sums, Ranges* ranges) {
  float lanes[kSums * LANES];
  sum_absolute(x, pixels / LANES, channels * LANES, channels, lanes, ranges);
  for (int32_t c = 0; c < channels; c++) {
    sums[c] = 0;
    for (int32_t i = c; i < channels * LANES; i += channels) sums[c] += lanes[i];
  }
  return pixels / LANES * LANES;
}

INLINE void sum_all_absolute(const float* x, int32_t pixels, int32_t channels, float* sums, Ranges* ranges) {
  int32_t c = 0;
  for (; c + kSums * LANES <= channels; c += kSums * LANES) {
    sum_absolute(x + c, pixels, channels, kSums, sums + c, ranges);
  }
  for (; c + 2 * LANES <= channels; c += 2 * LANES) sum_absolute(x + c, pixels, channels, 2, sums + c, ranges);
  if (c + LANES <= channels) {
    sum_absolute(x + c, pixels, channels, 1, sums + c, ranges);
    c += LANES;
  }
  if (c < channels) {
    int32_t p = 0; /* the next pixel; those of images are summed apart */
    if (channels == 1) p = sum_narrow(x, pixels, 1, sums, ranges);
    if (channels == 3) p = sum_narrow(x, pixels, 3, sums, ranges);
    V sum = p == 0 ? ZERO() : LOAD_FIRST(sums, channels);
    for (; p < pixels; p++) {
      const V value = LOAD_FIRST(x + (int64_t)p * channels + c, channels - c);
      sum = ADD(sum, ABS(value));
      if (ranges != NULL) widen(ranges, value);
    }
    STORE_FIRST(sums + c, sum, channels - c);
  }
}

static void saliency(const float* x, int32_t pixels, int32_t channels, float* sums) {
  sum_all_absolute(x, pixels, channels, sums, NULL);
}

static void saliency_and_range(const float* x, int32_t pixels, int32_t channels, float* sums, FbsRange* range) {
  Ranges ranges = {ZERO(), ZERO()};
  sum_all_absolute(x, pixels, channels, sums, &ranges);
  float low[LANES], high[LANES];
  STORE(low, ranges.low);
  STORE(high, ranges.high);
  *range = (FbsRange){low[0], high[0]};
  for (int lane = 1; lane < LANES; lane++) {
    range->low = low[lane] < range->low ? low[lane] : range->low;
    range->high = high[lane] > range->high ? high[lane] : range->high;
  }
}

/* Adds so many rows of the predictor to g. Neighbouring columns of several rows are streams that the CPU's prefetchers
 * follow. */
enum { kPredictorRows = 8 };

INLINE void add_rows(const float* s, const int32_t* in_indices, int32_t first, const int rows, const float* gate_kernel,
                     int64_t out_channels, int32_t begin, int32_t end, float* g) {
  const float* row[kPredictorRows];
  V value[kPredictorRows];
  UNROLL for (int r = 0; r < rows; r++) {
    const int64_t in = in_indices == NULL ? first + r : in_indices[first + r];
    row[r] = gate_kernel + in * out_channels;
    value[r] = BROADCAST(s[first + r]);
  }
  int32_t o = begin;
  for (; o + LANES <= end; o += LANES) {
    V sum = LOAD(g + o);
    UNROLL for (int r = 0; r < rows; r++) sum = FMA(value[r], LOAD(row[r] + o), sum);
    STORE(g + o, sum);
  }
  if (o < end) {
    V sum = LOAD_FIRST(g + o, end - o);
    for (int r = 0; r < rows; r++) sum = FMA(value[r], LOAD_FIRST(row[r] + o, end - o), sum);
    STORE_FIRST(g + o, sum, end - o);
  }
}

static void predict(const float* s, const int32_t* in_indices, int32_t depth, const float* gate_kernel,
                    int32_t out_channels, int32_t begin, int32_t end, float* g) {
  for (int32_t o = begin; o < end; o++) g[o] = 0;
  int32_t i = 0;
  for (; i + kPredictorRows <= depth; i += kPredictorRows) {
    add_rows(s, in_indices, i, kPredictorRows, gate_kernel, out_channels, begin, end, g);
  }
  for (; i < depth; i++) add_rows(s, in_indices, i, 1, gate_kernel, out_channels, begin, end, g);
}

#include "in_place_template.h"
#include "winners_template.h"
#include "winograd_template.h"
/* needs transpose, load_lanes and store_lanes of in_place_template.h */
#include "depthwise_template.h"

static const FbsKernels kernels = {
    .name = NAME,
    .lanes = LANES,
    .tile_pixels = TILE_PIXELS,
    .pack = pack,
    .add = add,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .multiply = multiply,
    .multiply_sums = multiply_sums,
    .winograd2 = {pack_filters2, transform_input2, transform_output2},
    .winograd4 = {pack_filters4, transform_input4, transform_output4},
    .pixel_tile_channels = PIXEL_TILE_CHANNELS,
    .copy_windows = copy_windows,
    .multiply_in_place = multiply_in_place,
    .activate_pixels = activate_pixels,
    .saliency = saliency,
    .saliency_and_range = saliency_and_range,
    .predict = predict,
    .choose_winners = choose_winners,
};
