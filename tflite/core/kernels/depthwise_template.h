/* The kernels of depthwise.c, where a vector holds neighbouring channels of a pixel; template.h includes this
 * file. Taps that fall into the padding are skipped. */

/* packed[t][j] = weights[indices[j]][t]; lanes beyond the last channel hold the first ones again. */
static void pack_depthwise(const float* weights, const int32_t* indices, int32_t taps, int32_t active, int32_t padded,
                           float* packed) {
  for (int32_t j = 0; j < padded; j += LANES) {
    for (int32_t t = 0; t < taps; t += LANES) {
      V rows[LANES];
      const int32_t count = taps - t < LANES ? taps - t : LANES;
      for (int32_t r = 0; r < LANES; r++) {
        const int64_t channel = indices[(j + r) % active];
        rows[r] = load_lanes(weights + channel * taps + t, count);
      }
      transpose(rows);
      for (int32_t r = 0; r < count; r++) STORE(packed + (int64_t)(t + r) * padded + j, rows[r]);
    }
  }
}

/* Output pixels side by side that are computed together: a vector of x then serves as many of them as windows hold it,
 * where one pixel at a time would load two vectors for each multiply-add. The sizes of the usual maps are multiples of
 * 7, and a row of at least 4 pixels can be cut into tiles of 4 to 7. */
enum { kLeastDepthwisePixels = 4, kDepthwisePixels = 7 };

/* A tile of output pixels by the input rows and columns that its windows hold. */
typedef struct {
  const FbsDepthwise* all;
  int64_t first_row, first_column; /* in x, of the first window; below 0 in the padding */
  int64_t first_tap, end_tap;      /* the kernel's rows that lie within x */
  float* y;
} DepthwiseTile;

INLINE V activate_depthwise(const FbsDepthwise* all, V sum) {
  return MIN(BROADCAST(all->high), MAX(BROADCAST(all->low), sum));
}

/* Columns that one pointer reaches by the multiples of a pixel's size that instructions can add to it. Left alone, gcc
 * holds every multiple in a register of its own, of which there are not enough. */
enum { kColumnsReached = 4 };
#define HOLD_POINTER(p) __asm__("" : "+r"(p))

/* Adds one row of the windows, whose first column is at `x`, to the sums. */
INLINE void add_window_row(const DepthwiseTile* tile, const float* x, const float* row_weights, const int pixels,
                           const int kernel, const int stride, const int edge, V* sum) {
  const int64_t active = tile->all->active, columns = tile->all->in_width, padded = tile->all->padded;
  V weights[5];
  UNROLL for (int i = 0; i < kernel; i++) weights[i] = LOAD(row_weights + i * padded);
  UNROLL for (int c = 0; c < (pixels - 1) * stride + kernel; c++) {
    if (c > 0 && c % kColumnsReached == 0) {
      x += kColumnsReached * active;
      HOLD_POINTER(x);
    }
    if (edge && (uint64_t)(tile->first_column + c) >= (uint64_t)columns) continue;
    V value = LOAD(x + c % kColumnsReached * active);
    KEEP(value);
    UNROLL for (int p = 0; p < pixels; p++) {
      const int i = c - p * stride;
      if (i >= 0 && i < kernel) sum[p] = FMA(value, weights[i], sum[p]);
    }
  }
}

/* One vector of channels from `channel` on. */
INLINE void depthwise_vector(const DepthwiseTile* tile, int64_t channel, const int pixels, const int kernel,
                             const int stride, const int edge) {
  const FbsDepthwise* all = tile->all;
  const int64_t active = all->active, row_size = all->in_width * active, weights_size = (int64_t)kernel * all->padded;
  const float* x = all->x + (tile->first_row * all->in_width + tile->first_column) * active + channel;
  const float* weights = all->weights + channel;
  V sum[kDepthwisePixels];
  UNROLL for (int p = 0; p < pixels; p++) sum[p] = LOAD(all->bias + channel);
  if (kernel == 3) { /* unrolled, it takes 5 to 10 % less time; 5x5 gains less from more code */
    UNROLL for (int t = 0; t < 3; t++) {
      if (edge && (t < tile->first_tap || t >= tile->end_tap)) continue;
      add_window_row(tile, x + t * row_size, weights + t * weights_size, pixels, kernel, stride, edge, sum);
    }
  } else {
    for (int64_t t = tile->first_tap; t < tile->end_tap; t++) {
      add_window_row(tile, x + t * row_size, weights + t * weights_size, pixels, kernel, stride, edge, sum);
    }
  }
  float* y = tile->y + channel;
  UNROLL for (int p = 0; p < pixels; p++) STORE(y + p * active, activate_depthwise(all, sum[p]));
}

/* All channels, at least a vector of them; the last vector may compute some a second time. */
INLINE void depthwise_tile(const DepthwiseTile* tile, const int pixels, const int kernel, const int stride,
                           const int edge) {
  const int64_t last = tile->all->active - LANES;
  for (int64_t channel = 0; channel < last + LANES; channel += LANES) {
    depthwise_vector(tile, channel < last ? channel : last, pixels, kernel, stride, edge);
  }
}

#define DEPTHWISE_SIZES(T, kernel, stride) \
  T(4, kernel, stride) T(5, kernel, stride) T(6, kernel, stride) T(7, kernel, stride)
#define DEPTHWISE_TILES(T) \
  DEPTHWISE_SIZES(T, 3, 1) DEPTHWISE_SIZES(T, 3, 2) DEPTHWISE_SIZES(T, 5, 1) DEPTHWISE_SIZES(T, 5, 2)
#define DEFINE_DEPTHWISE(pixels, kernel, stride)                                         \
  static void depthwise_##kernel##_##stride##_##pixels(const DepthwiseTile* tile) {      \
    depthwise_tile(tile, pixels, kernel, stride, 0);                                     \
  }                                                                                      \
  static void depthwise_edge_##kernel##_##stride##_##pixels(const DepthwiseTile* tile) { \
    depthwise_tile(tile, pixels, kernel, stride, 1);                                     \
  }
DEPTHWISE_TILES(DEFINE_DEPTHWISE)

/* [kernel / 2 - 1][stride - 1][pixels][edge] */
#define DEPTHWISE_ENTRY(pixels, kernel, stride)                                     \
  [kernel / 2 - 1][stride - 1][pixels] = {depthwise_##kernel##_##stride##_##pixels, \
                                          depthwise_edge_##kernel##_##stride##_##pixels},
static void (*const depthwise_tiles[2][2][kDepthwisePixels + 1][2])(const DepthwiseTile*) = {
    DEPTHWISE_TILES(DEPTHWISE_ENTRY)};

/* Which of `count` taps, the first at `first` and the others `dilation` apart, lie within 0..size. */
static void find_taps(int64_t first, int64_t count, int64_t dilation, int64_t size, int64_t* begin, int64_t* end) {
  *begin = first < 0 ? (dilation - 1 - first) / dilation : 0;
  *end = size <= first ? 0 : (size - first + dilation - 1) / dilation;
  if (*end > count) *end = count;
}

/* `vectors` vectors of channels of one pixel, the first `lanes` of each, for any window. */
INLINE void depthwise_pixel(const DepthwiseTile* tile, int64_t begin, int64_t end, int64_t channel, const int vectors,
                            const int32_t lanes) {
  const FbsDepthwise* all = tile->all;
  const int64_t active = all->active;
  V sum[kSums];
  UNROLL for (int v = 0; v < vectors; v++) sum[v] = load_lanes(all->bias + channel + v * LANES, lanes);
  for (int64_t t = tile->first_tap; t < tile->end_tap; t++) {
    const int64_t row = tile->first_row + t * all->dilation_height;
    for (int64_t i = begin; i < end; i++) {
      const int64_t column = tile->first_column + i * all->dilation_width;
      const float* x = all->x + (row * all->in_width + column) * active + channel;
      const float* weights = all->weights + (t * all->kernel_width + i) * all->padded + channel;
      UNROLL for (int v = 0; v < vectors; v++) {
        sum[v] = FMA(load_lanes(x + v * LANES, lanes), load_lanes(weights + v * LANES, lanes), sum[v]);
      }
    }
  }
  UNROLL for (int v = 0; v < vectors; v++) {
    store_lanes(tile->y + channel + v * LANES, activate_depthwise(all, sum[v]), lanes);
  }
}

/* Columns begin..end of an output row, for any window. */
static void depthwise_columns(DepthwiseTile tile, int64_t begin_column, int64_t end_column) {
  const FbsDepthwise* all = tile.all;
  tile.y += begin_column * all->active;
  for (int64_t column = begin_column; column < end_column; column++, tile.y += all->active) {
    int64_t begin, end;
    tile.first_column = column * all->stride_width - all->pad_left;
    find_taps(tile.first_column, all->kernel_width, all->dilation_width, all->in_width, &begin, &end);
    int32_t c = 0;
    for (; c + kSums * LANES <= all->active; c += kSums * LANES) depthwise_pixel(&tile, begin, end, c, kSums, LANES);
    for (; c + LANES <= all->active; c += LANES) depthwise_pixel(&tile, begin, end, c, 1, LANES);
    if (c < all->active) depthwise_pixel(&tile, begin, end, c, 1, all->active - c);
  }
}

static void depthwise_row(DepthwiseTile tile) { depthwise_columns(tile, 0, tile.all->out_width); }

/* `vectors` vectors of `pixels` pixels each, of fewer channels than a vector, whose windows' columns lie within x.
 * Lanes beyond the last pixel are stored too, for what follows to overwrite. */
INLINE void depthwise_narrow_pixels(const DepthwiseTile* tile, int64_t column, int64_t pixels, const int vectors) {
  const FbsDepthwise* all = tile->all;
  const int64_t active = all->active, stride = all->stride_width;
  V sum[kSums];
  UNROLL for (int v = 0; v < vectors; v++) sum[v] = LOAD(all->bias);
  for (int64_t t = tile->first_tap; t < tile->end_tap; t++) {
    const int64_t row = tile->first_row + t * all->dilation_height;
    const float* x = all->x + (row * all->in_width + column * stride - all->pad_left) * active;
    for (int64_t i = 0; i < all->kernel_width; i++, x += all->dilation_width * active) {
      const V weights = LOAD(all->weights + (t * all->kernel_width + i) * all->padded);
      UNROLL for (int v = 0; v < vectors; v++) sum[v] = FMA(LOAD(x + v * pixels * stride * active), weights, sum[v]);
    }
  }
  float* y = tile->y + column * active;
  UNROLL for (int v = 0; v < vectors; v++) STORE(y + v * pixels * active, activate_depthwise(all, sum[v]));
}

/* One output row of fewer channels than a vector, which holds as many neighbouring pixels as go into it. */
static void depthwise_row_narrow(DepthwiseTile tile) {
  const FbsDepthwise* all = tile.all;
  const int64_t stride = all->stride_width, reach = (int64_t)(all->kernel_width - 1) * all->dilation_width;
  const int64_t pixels = stride == 1 ? LANES / all->active : 1;
  const int64_t touched = (LANES + all->active - 1) / all->active; /* pixels that a load or a store touches */
  const int64_t room = all->in_width + all->pad_left - reach - touched;
  const int64_t first = (all->pad_left + stride - 1) / stride;
  const int64_t last = room < 0                                   ? -1
                       : room / stride < all->out_width - touched ? room / stride
                                                                  : all->out_width - touched;
  if (last < first) {
    depthwise_row(tile);
    return;
  }
  depthwise_columns(tile, 0, first);
  int64_t column = first;
  for (; column + kSums * pixels <= last; column += kSums * pixels) {
    depthwise_narrow_pixels(&tile, column, pixels, kSums);
  }
  for (; column < last; column += pixels) depthwise_narrow_pixels(&tile, column, pixels, 1);
  depthwise_narrow_pixels(&tile, last, pixels, 1);
  depthwise_columns(tile, last + pixels, all->out_width);
}

/* One output row in nearly equal tiles. */
static void depthwise_row_tiles(DepthwiseTile tile) {
  const FbsDepthwise* all = tile.all;
  const int32_t kernel = all->kernel_width, stride = all->stride_width;
  const int32_t tiles = (all->out_width + kDepthwisePixels - 1) / kDepthwisePixels;
  for (int32_t n = 0; n < tiles; n++) {
    const int64_t begin = (int64_t)all->out_width * n / tiles, end = (int64_t)all->out_width * (n + 1) / tiles;
    tile.first_column = begin * stride - all->pad_left;
    const int64_t end_column = tile.first_column + (end - begin - 1) * stride + kernel;
    const int edge = tile.end_tap - tile.first_tap < kernel || tile.first_column < 0 || end_column > all->in_width;
    depthwise_tiles[kernel / 2 - 1][stride - 1][end - begin][edge](&tile);
    tile.y += (end - begin) * all->active;
  }
}

static int has_tiles(const FbsDepthwise* all) {
  const int32_t kernel = all->kernel_width, stride = all->stride_width;
  return (kernel == 3 || kernel == 5) && all->kernel_height == kernel && (stride == 1 || stride == 2) &&
         all->dilation_height == 1 && all->dilation_width == 1 && all->active >= LANES &&
         all->out_width >= kLeastDepthwisePixels;
}

static void depthwise(const FbsDepthwise* all, int64_t begin, int64_t end) {
  void (*const row_function)(DepthwiseTile) = has_tiles(all)        ? depthwise_row_tiles
                                              : all->active < LANES ? depthwise_row_narrow
                                                                    : depthwise_row;
  for (int64_t row = begin; row < end; row++) {
    DepthwiseTile tile = {.all = all,
                          .first_row = row * all->stride_height - all->pad_top,
                          .y = all->y + row * all->out_width * all->active};
    find_taps(tile.first_row, all->kernel_height, all->dilation_height, all->in_height, &tile.first_tap, &tile.end_tap);
    row_function(tile);
  }
}
