/* The int8 kernels, written with the vector operations that the including file defines for its instruction set:
 *
 *   LANES, SUMS, V                32-bit integers or floats in a vector; its types
 *   LOAD_SUMS(p)                  unaligned
 *   WEIGHTS, LOAD_WEIGHTS(p)      a quad's packed weights for one vector of channels; 64-byte aligned for one of 64
 *   BYTES, SPREAD(p)              four bytes of the image in each lane
 *   DOT(sum, bytes, weights)      adds to each lane of the sums, in place, the products of its four bytes and weights
 *   TO_FLOAT(sums)                to nearest
 *   LOAD STORE STORE_FIRST BROADCAST MUL FMA MAX MIN   of floats, as in template.h
 *   TILES(T), TILE_PIXELS, MAX_VECTORS   T(pixels, vectors) for every tile size
 *   MULTIPLY_QUADS                (optional) the multiply loop for the first quads of a run; returns how many
 *   NAME, STRETCH, ORIGIN         the entries of FbsInt8Kernels
 *   QUADS                         quads that are packed one after the other with the same selection: their rows stay in
 *                                 L1 for the next panels. 512 channels at 7x7 and half the density pack in 25 us with
 *                                 16 (AVX-512, vector by vector), in 32 or 38 with 8 or 32 (Zen 5)
 *
 * and with the functions
 *   quantise                      the entry of FbsInt8Kernels
 *   pack_vector, or pack_panel where PACK_PANEL is defined   as declared below
 */
#include "../kernels_int8.h"

typedef struct {
  const FbsInt8Multiplication* all;
  int64_t first_pixel;  /* of y */
  const int8_t* packed; /* [run][quad][vectors][LANES][4] */
  int32_t channel;      /* the first one */
  int32_t last_lanes;   /* channels in the last vector */
} Tile;

/* Where the windows of neighbouring outputs begin. */
INLINE void find_windows(const Tile* tile, const int windows, const uint8_t** x) {
  const FbsInt8Multiplication* all = tile->all;
  int64_t row = tile->first_pixel / all->out_width, column = tile->first_pixel % all->out_width;
  for (int i = 0; i < windows; i++) {
    x[i] = all->x + row * all->row_step + column * all->pixel_step;
    if (++column == all->out_width) column = 0, row++;
  }
}

/* The same for those of each pixel of y in turn, which takes 2x2. */
INLINE void find_pooled_windows(const Tile* tile, const int windows, const uint8_t** x) {
  const FbsInt8Multiplication* all = tile->all;
  int64_t row = tile->first_pixel / all->out_width, column = tile->first_pixel % all->out_width;
  for (int i = 0; i < windows; i += 4) {
    x[i] = all->x + 2 * row * all->row_step + 2 * column * all->pixel_step;
    x[i + 1] = x[i] + all->pixel_step;
    x[i + 2] = x[i] + all->row_step;
    x[i + 3] = x[i + 1] + all->row_step;
    if (++column == all->out_width) column = 0, row++;
  }
}

/* Of `windows` windows, y's pixels are the largest of each 1 or 4: `each`. */
INLINE void store_tile(const Tile* tile, SUMS sum[][kFbsInt8MaxVectors], const int windows, const int vectors,
                       const int each) {
  const FbsInt8Multiplication* all = tile->all;
  const V low = BROADCAST(all->low), high = BROADCAST(all->high);
  UNROLL for (int v = 0; v < vectors; v++) {
    const int32_t channel = tile->channel + v * LANES;
    const V scale = LOAD(all->scale + channel), bias = LOAD(all->bias + channel), gate = LOAD(all->gate + channel);
    float* y = all->y + tile->first_pixel * all->out_active + channel;
    UNROLL for (int p = 0; p < windows; p += each, y += all->out_active) {
      V out = MUL(gate, FMA(TO_FLOAT(sum[p][v]), scale, bias));
      UNROLL for (int i = p + 1; i < p + each; i++) out = MAX(MUL(gate, FMA(TO_FLOAT(sum[i][v]), scale, bias)), out);
      out = MIN(high, MAX(low, out));
      if (v < vectors - 1 || tile->last_lanes == LANES) {
        STORE(y, out);
      } else {
        STORE_FIRST(y, out, tile->last_lanes);
      }
    }
  }
}

INLINE void multiply_tile(const Tile* tile, const int windows, const int vectors) {
  const FbsInt8Multiplication* all = tile->all;
  const int pools = windows % 4 == 0 && all->max_pool;
  SUMS sum[kFbsInt8MaxPixels][kFbsInt8MaxVectors];
  UNROLL for (int v = 0; v < vectors; v++) {
    const SUMS start = LOAD_SUMS(all->start + tile->channel + v * LANES);
    UNROLL for (int p = 0; p < windows; p++) sum[p][v] = start;
  }
  const uint8_t* x[kFbsInt8MaxPixels];
  if (pools) {
    find_pooled_windows(tile, windows, x);
  } else {
    find_windows(tile, windows, x);
  }
  const int8_t* w = tile->packed;
  for (int32_t r = 0; r < all->run_count; r++) {
    int64_t i = all->runs[r], quad = 0;
#ifdef MULTIPLY_QUADS
    quad = MULTIPLY_QUADS(sum, x, i, w, all->run_quads, windows, vectors);
    i += 4 * quad;
    w += quad * vectors * LANES * 4;
#endif
    for (; quad < all->run_quads; quad++, i += 4, w += vectors * LANES * 4) {
      WEIGHTS weights[kFbsInt8MaxVectors];
      UNROLL for (int v = 0; v < vectors; v++) weights[v] = LOAD_WEIGHTS(w + v * LANES * 4);
      UNROLL for (int p = 0; p < windows; p++) {
        BYTES bytes = SPREAD(x[p] + i);
        UNROLL for (int v = 0; v < vectors; v++) DOT(sum[p][v], bytes, weights[v]);
      }
    }
  }
  if (pools) {
    store_tile(tile, sum, windows, vectors, 4);
  } else {
    store_tile(tile, sum, windows, vectors, 1);
  }
}

#define DEFINE_TILE(pixels, vectors) \
  static void multiply_##pixels##x##vectors(const Tile* tile) { multiply_tile(tile, pixels, vectors); }
TILES(DEFINE_TILE)

#define TILE_ENTRY(pixels, vectors) [vectors][pixels] = multiply_##pixels##x##vectors,
static void (*const tile_functions[kFbsInt8MaxVectors + 1][kFbsInt8MaxPixels + 1])(const Tile*) = {TILES(TILE_ENTRY)};

static void multiply(const FbsInt8Multiplication* all, const FbsPanel* panel, const int8_t* packed, int32_t tiles,
                     int32_t begin, int32_t end) {
  const int32_t channel = panel->first_vector * LANES, last_channel = channel + (panel->vectors - 1) * LANES;
  const int32_t left = all->out_active - last_channel;
  const int32_t smaller = all->pixels / tiles, larger = all->pixels % tiles; /* `larger` tiles have one pixel more */
  const int32_t windows = fbs_int8_windows(all->max_pool);
  Tile tile = {.all = all, .packed = packed, .channel = channel, .last_lanes = left < LANES ? left : LANES};
  for (int32_t i = begin; i < end; i++) {
    tile.first_pixel = (int64_t)i * smaller + (i < larger ? i : larger);
    tile_functions[panel->vectors][windows * (smaller + (i < larger))](&tile);
  }
}

#ifdef PACK_PANEL
/* Packs `quads` quads of rows for all vectors of a panel. first[v] says where the stretches of vector v begin. */
static void pack_panel(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, const int32_t* first,
                       int32_t vectors, int8_t* packed, int32_t* sums);
#else
/* Packs them for one vector, to packed, packed + step, ... */
static void pack_vector(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, int32_t count,
                        int8_t* packed, int64_t step, int32_t* sums);

static void pack_panel(const int8_t* const* rows, int64_t quads, const FbsStretch* stretches, const int32_t* first,
                       int32_t vectors, int8_t* packed, int32_t* sums) {
  for (int64_t v = 0; v < vectors; v++) {
    pack_vector(rows, quads, stretches + first[v], first[v + 1] - first[v], packed + v * LANES * 4, vectors * LANES * 4,
                sums == NULL ? NULL : sums + v * LANES);
  }
}
#endif

enum { kLine = 64 }; /* bytes of the cache */

/* Fetches a column of QUADS quads of rows: into L2, since L1 is full of the rows that are being packed. */
INLINE void fetch(const int8_t* const* rows, int32_t column) {
  for (int r = 0; r < 4 * QUADS; r++) __builtin_prefetch(rows[r] + column, 0, 2);
}

static void pack(const FbsInt8Packing* packing, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
                 int8_t* packed, int32_t* sums) {
  for (int64_t quad = begin; quad < end; quad += QUADS) {
    const int64_t quads = end - quad < QUADS ? end - quad : QUADS;
    int8_t* panel_packed = packed;
    int32_t line = -1; /* of the next rows, fetched last */
    for (int32_t n = 0; n < count; n++) {
      const int64_t step = panels[n].vectors * LANES * 4;
      const int32_t* first = packing->first_stretch + panels[n].first_vector;
      for (int32_t v = 0; v < panels[n].vectors && packing->fetch && quad + 2 * QUADS <= end; v++) {
        const int32_t column = packing->stretches[first[v]].column;
        if (column / kLine == line) continue;
        line = column / kLine;
        fetch(packing->rows + 4 * (quad + QUADS), column);
      }
      pack_panel(packing->rows + 4 * quad, quads, packing->stretches, first, panels[n].vectors,
                 panel_packed + quad * step, sums == NULL ? NULL : sums + (int64_t)panels[n].first_vector * LANES);
      panel_packed += packing->quads * step;
    }
  }
}

static const FbsInt8Kernels kernels = {
    .name = NAME,
    .lanes = LANES,
    .stretch = STRETCH,
    .vectors = MAX_VECTORS,
    .tile_pixels = TILE_PIXELS,
    .origin = ORIGIN,
    .quantise = quantise,
    .pack = pack,
    .multiply = multiply,
};
