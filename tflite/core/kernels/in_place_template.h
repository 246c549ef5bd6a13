/* The kernels of in_place.c, where a vector holds one channel of neighbouring output pixels; template.h
 * includes this file. It needs from the instruction set, besides what that one does:
 *
 *   ZIP_LOW(a, b) ZIP_HIGH(a, b)    a and b interleaved lane by lane: the first LANES results, the others
 *   INSERT(v, lane, w)              v with w's lane in it; lane is a constant after unrolling
 *   KEEP(v)                         holds v in its register, where gcc would load it a second time
 *   PIXEL_TILES(T), PIXEL_TILE_CHANNELS   T(vectors, channels) for every tile size; the entry of FbsKernels
 */

/* LANES rows of LANES become columns: after as many perfect shuffles as LANES has bits, an element's place has its row
 * and its column exchanged. */
INLINE void transpose(V* rows) {
  for (int step = 1; step < LANES; step *= 2) {
    V shuffled[LANES];
    UNROLL for (int r = 0; r < LANES / 2; r++) {
      shuffled[2 * r] = ZIP_LOW(rows[r], rows[r + LANES / 2]);
      shuffled[2 * r + 1] = ZIP_HIGH(rows[r], rows[r + LANES / 2]);
    }
    UNROLL for (int r = 0; r < LANES; r++) rows[r] = shuffled[r];
  }
}

INLINE V load_lanes(const float* p, int32_t n) { return n == LANES ? LOAD(p) : LOAD_FIRST(p, n); }

INLINE void store_lanes(float* p, V v, int32_t n) {
  if (n == LANES) {
    STORE(p, v);
  } else {
    STORE_FIRST(p, v, n);
  }
}

/* windows[tap][i][pixel] and odd_windows[tap][i][odd pixel], for blocks begin..end of the taps * ceil(depth / LANES)
 * blocks of a tap's input channels */
static void copy_windows(const FbsPixelTile* tile, int64_t begin, int64_t end) {
  const FbsMultiplication* all = tile->all;
  const int64_t depth = all->depth, blocks = (depth + LANES - 1) / LANES, width = tile->vectors * LANES;
  for (int64_t block = begin; block < end; block++) {
    const int64_t t = block / blocks, i = block % blocks * LANES, row = t * depth + i;
    const int32_t channels = (int32_t)(depth - i < LANES ? depth - i : LANES);
    const int32_t* offsets = all->offsets + t * all->pixels;
    for (int64_t v = 0; v < tile->vectors; v++) {
      V rows[LANES];
      const int64_t first = tile->first_pixel + v * LANES;
      for (int64_t p = 0; p < LANES; p++) {
        const int64_t offset = first + p < all->pixels ? offsets[first + p] : -1;
        rows[p] = load_lanes((offset < 0 ? all->zeros : all->x + offset) + i, channels);
      }
      transpose(rows);
      for (int32_t c = 0; c < channels; c++) STORE(tile->windows + (row + c) * width + v * LANES, rows[c]);
    }
    for (int64_t p = 0; p < tile->odd_pixels; p++) {
      const int64_t offset = offsets[tile->first_pixel + width + p];
      const float* x = (offset < 0 ? all->zeros : all->x + offset) + i;
      for (int32_t c = 0; c < channels; c++) tile->odd_windows[(row + c) * tile->odd_pixels + p] = x[c];
    }
  }
}

INLINE V activate(const FbsMultiplication* all, V sum, int32_t channel) {
  const V out = MUL(LOAD(all->gate + channel), ADD(sum, LOAD(all->bias + channel)));
  return MIN(BROADCAST(all->high), MAX(BROADCAST(all->low), out));
}

/* sums[channel][pixel] = sum_{tap, i} weights[channel][tap][i] * windows[tap][i][pixel]. The odd pixels fill no vector
 * of their own: what of the weights is broadcast for the others is also collected in a vector of channels, with which
 * one multiply-add does for an odd pixel; their outputs are written at once. */
INLINE void multiply_pixels(const FbsPixelTile* tile, const float* const* weights, int32_t channel, const int vectors,
                            const int channels, const int odd_pixels) {
  const FbsMultiplication* all = tile->all;
  V sum[kFbsMaxTileChannels][kFbsMaxPixelVectors], odd[kFbsMaxOddPixels + 1];
  UNROLL for (int c = 0; c < channels; c++) { UNROLL for (int v = 0; v < vectors; v++) sum[c][v] = ZERO(); }
  UNROLL for (int p = 0; p < odd_pixels; p++) odd[p] = ZERO();
  const float* w[kFbsMaxTileChannels];
  UNROLL for (int c = 0; c < channels; c++) w[c] = weights[c];
  const float *windows = tile->windows, *odd_windows = tile->odd_windows;
  const int32_t *column = tile->columns, *end = column + (int64_t)all->taps * all->depth;
  for (; column < end; column++) {
    const int64_t in = *column;
    V x[kFbsMaxPixelVectors], of_channels = ZERO();
    UNROLL for (int v = 0; v < vectors; v++) x[v] = LOAD(windows + v * LANES);
    UNROLL for (int c = 0; c < channels; c++) {
      V weight = BROADCAST(w[c][in]);
      if (odd_pixels > 0) {
        KEEP(weight);
        of_channels = c == 0 ? weight : INSERT(of_channels, c, weight);
      }
      UNROLL for (int v = 0; v < vectors; v++) sum[c][v] = FMA(weight, x[v], sum[c][v]);
    }
    UNROLL for (int p = 0; p < odd_pixels; p++) odd[p] = FMA(BROADCAST(odd_windows[p]), of_channels, odd[p]);
    windows += vectors * LANES;
    odd_windows += odd_pixels;
  }

  float* sums = tile->sums + (int64_t)channel * vectors * LANES;
  UNROLL for (int c = 0; c < channels; c++) {
    UNROLL for (int v = 0; v < vectors; v++) STORE(sums + (c * vectors + v) * LANES, sum[c][v]);
  }
  const int32_t left = all->out_active - channel, used = left < channels ? left : channels;
  float* y = all->y + (tile->first_pixel + vectors * LANES) * all->out_active + channel;
  UNROLL for (int p = 0; p < odd_pixels; p++, y += all->out_active)
      store_lanes(y, activate(all, odd[p], channel), used);
}

/* y[pixel][channel] = act(gate[channel] * (sums[channel][pixel] + bias[channel])), for blocks begin..end of LANES
 * channels: whole cache lines, where the tiles above would leave parts of them */
static void activate_pixels(const FbsPixelTile* tile, int64_t begin, int64_t end) {
  const FbsMultiplication* all = tile->all;
  const int64_t width = tile->vectors * LANES;
  for (int64_t block = begin; block < end; block++) {
    const int32_t channel = (int32_t)block * LANES, left = all->out_active - channel;
    const int32_t channels = left < LANES ? left : LANES;
    for (int64_t v = 0; v < tile->vectors; v++) {
      V rows[LANES];
      UNROLL for (int c = 0; c < LANES; c++) rows[c] = LOAD(tile->sums + (channel + c) * width + v * LANES);
      transpose(rows);
      const int64_t first = tile->first_pixel + v * LANES;
      float* y = all->y + first * all->out_active + channel;
      for (int p = 0; p < LANES && first + p < all->pixels; p++, y += all->out_active) {
        store_lanes(y, activate(all, rows[p], channel), channels);
      }
    }
  }
}

#define DEFINE_PIXEL_TILE(vectors, channels, odd)                                                                   \
  static void multiply_pixels_##vectors##_##odd(const FbsPixelTile* tile, const float* const* weights, int32_t c) { \
    multiply_pixels(tile, weights, c, vectors, channels, odd);                                                      \
  }
#define DEFINE_PIXEL_TILES(vectors, channels) \
  DEFINE_PIXEL_TILE(vectors, channels, 0)     \
  DEFINE_PIXEL_TILE(vectors, channels, 1) DEFINE_PIXEL_TILE(vectors, channels, 2)
PIXEL_TILES(DEFINE_PIXEL_TILES)

#define PIXEL_TILE_ENTRIES(vectors, channels) \
  [vectors] = {multiply_pixels_##vectors##_0, multiply_pixels_##vectors##_1, multiply_pixels_##vectors##_2},
static void (*const pixel_tile_functions[kFbsMaxPixelVectors + 1][kFbsMaxOddPixels + 1])(
    const FbsPixelTile*, const float* const*, int32_t) = {PIXEL_TILES(PIXEL_TILE_ENTRIES)};

static void multiply_in_place(const FbsPixelTile* tile, const float* const* weights, int32_t channel) {
  pixel_tile_functions[tile->vectors][tile->odd_pixels](tile, weights, channel);
}
