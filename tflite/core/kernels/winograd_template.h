/* The kernels of winograd.c; template.h includes this file. F(m, 3) computes m neighbouring outputs of a filter
 * of three from a = m + 2 inputs with a multiplications instead of 3 m; F(m x m, 3 x 3) nests two of them:
 *
 *   Y = A^T [ (G w G^T) . (B^T d B) ] A
 *
 * (Lavin and Gray, 2016, section 4) with the points 0, 1, -1 and infinity for m = 2, and 0, +-1/sqrt(2), +-sqrt(2) and
 * infinity for m = 4, which round a third as much as +-1 and +-2 for as many operations (docs/kernels_notebook.md). It
 * needs SUB(a, b) from the instruction set besides what template.h does.
 */

enum { kMostPoints = 6 }; /* a, for m = 4 */

static const float kRoot = 1.41421356237309504880f;

/* u = G w */
INLINE void transform_filter(const int m, const V* w, V* u) {
  u[0] = w[0];
  u[m + 1] = w[2];
  if (m == 2) {
    const V half = BROADCAST(0.5f), even = MUL(half, ADD(w[0], w[2])), odd = MUL(half, w[1]);
    u[1] = ADD(even, odd);
    u[2] = SUB(even, odd);
  } else {
    const V two = BROADCAST(2);
    const V even = MUL(BROADCAST(-1 / 3.0f), FMA(two, w[0], w[2])), odd = MUL(BROADCAST(-kRoot / 3), w[1]);
    const V even2 = MUL(BROADCAST(1 / 6.0f), FMA(two, w[2], w[0])), odd2 = MUL(BROADCAST(kRoot / 6), w[1]);
    u[1] = ADD(even, odd);
    u[2] = SUB(even, odd);
    u[3] = ADD(even2, odd2);
    u[4] = SUB(even2, odd2);
  }
}

/* v = B^T d */
INLINE void transform_window(const int m, const V* d, V* v) {
  if (m == 2) {
    v[0] = SUB(d[0], d[2]);
    v[1] = ADD(d[1], d[2]);
    v[2] = SUB(d[2], d[1]);
    v[3] = SUB(d[1], d[3]);
  } else {
    const V even = FMA(BROADCAST(-2), d[2], d[4]), odd = FMA(BROADCAST(-2), d[1], d[3]);
    const V even2 = FMA(BROADCAST(-0.5f), d[2], d[4]), odd2 = FMA(BROADCAST(-0.5f), d[1], d[3]);
    v[0] = FMA(BROADCAST(-2.5f), d[2], ADD(d[0], d[4]));
    v[1] = FMA(BROADCAST(kRoot / 2), odd, even);
    v[2] = FMA(BROADCAST(-kRoot / 2), odd, even);
    v[3] = FMA(BROADCAST(kRoot), odd2, even2);
    v[4] = FMA(BROADCAST(-kRoot), odd2, even2);
    v[5] = FMA(BROADCAST(-2.5f), d[3], ADD(d[1], d[5]));
  }
}

/* y = A^T s */
INLINE void transform_products(const int m, const V* s, V* y) {
  const V even = ADD(s[1], s[2]), odd = SUB(s[1], s[2]);
  if (m == 2) {
    y[0] = ADD(s[0], even);
    y[1] = SUB(odd, s[3]);
  } else {
    const V even2 = ADD(s[3], s[4]), odd2 = SUB(s[3], s[4]);
    y[0] = ADD(s[0], ADD(even, even2));
    y[1] = FMA(BROADCAST(kRoot), odd2, MUL(BROADCAST(kRoot / 2), odd));
    y[2] = FMA(BROADCAST(2), even2, MUL(BROADCAST(0.5f), even));
    y[3] = FMA(BROADCAST(2 * kRoot), odd2, FMA(BROADCAST(kRoot / 4), odd, s[5]));
  }
}

/* The filters [9][out_channels] of active input channel i. */
INLINE const float* filters_of(const FbsPacking* packing, int64_t i) {
  const int64_t in = packing->in_indices == NULL ? i : packing->in_indices[i];
  return packing->weights + in * 9 * packing->out_channels;
}

/* packed[point][i][vectors * LANES] = G weights[in_indices[i], :, winners] G^T for i = begin..end */
INLINE void pack_filters(const int m, const FbsPacking* packing, const FbsPanel* panel, int64_t begin, int64_t end,
                         int64_t plane, float* packed) {
  const int a = m + 2;
  const int64_t out_channels = packing->out_channels;
  const int32_t* first = packing->first_stretch + panel->first_vector;
  float* to = packed + begin * panel->vectors * LANES;
  for (int64_t i = begin; i < end; i++) {
    const float* source = filters_of(packing, i);
    const float* ahead = filters_of(packing, i + 3 < end ? i + 3 : i); /* too far away for the CPU to guess */
    for (int32_t v = 0; v < panel->vectors; v++, to += LANES) {
      V w[3][3], columns[kMostPoints][3];
      UNROLL for (int t = 0; t < 9; t++) w[t % 3][t / 3] = ZERO(); /* w[x][y] */
      const FbsStretch* stop = packing->stretches + first[v + 1];
      for (const FbsStretch* stretch = packing->stretches + first[v]; stretch < stop; stretch++) {
        const SELECT select = LOAD_SELECT(stretch->select);
        UNROLL for (int t = 0; t < 9; t++) {
          __builtin_prefetch(ahead + t * out_channels + stretch->column);
          w[t % 3][t / 3] = MERGE(w[t % 3][t / 3], select, source + t * out_channels + stretch->column);
        }
      }
      UNROLL for (int x = 0; x < 3; x++) {
        V u[kMostPoints];
        transform_filter(m, w[x], u);
        UNROLL for (int y = 0; y < a; y++) columns[y][x] = u[y];
      }
      UNROLL for (int y = 0; y < a; y++) {
        V u[kMostPoints];
        transform_filter(m, columns[y], u);
        UNROLL for (int x = 0; x < a; x++) STORE(to + (y * a + x) * plane, u[x]);
      }
    }
  }
}

/* windows[point][tile][i] = B^T d B for the windows d of tiles begin..end; a tile's row is depth, rounded up to whole
 * vectors, long */
INLINE void transform_input(const int m, const FbsWinogradImage* image, int64_t begin, int64_t end, int64_t plane,
                            float* windows) {
  const int a = m + 2;
  const int32_t depth = image->all->depth;
  for (int64_t tile = begin; tile < end; tile++) {
    const float* d[kMostPoints][kMostPoints]; /* d[x][y] */
    const int64_t top = tile / image->tiles_across * m - image->pad_top;
    const int64_t left = tile % image->tiles_across * m - image->pad_left;
    for (int y = 0; y < a; y++) {
      for (int x = 0; x < a; x++) {
        const int inside = top + y >= 0 && top + y < image->in_height && left + x >= 0 && left + x < image->in_width;
        d[x][y] = inside ? image->all->x + ((top + y) * image->in_width + left + x) * depth : image->all->zeros;
      }
    }
    for (int32_t i = 0; i < depth; i += LANES, windows += LANES) {
      V columns[kMostPoints][kMostPoints];
      UNROLL for (int x = 0; x < a; x++) {
        V column[kMostPoints], v[kMostPoints];
        UNROLL for (int y = 0; y < a; y++) {
          column[y] = depth - i >= LANES ? LOAD(d[x][y] + i) : LOAD_FIRST(d[x][y] + i, depth - i);
        }
        transform_window(m, column, v);
        UNROLL for (int y = 0; y < a; y++) columns[y][x] = v[y];
      }
      UNROLL for (int y = 0; y < a; y++) {
        V v[kMostPoints];
        transform_window(m, columns[y], v);
        UNROLL for (int x = 0; x < a; x++) STORE(windows + (y * a + x) * plane, v[x]);
      }
    }
  }
}

/* y = act(gate * (A^T s A + bias)) for the outputs of tiles begin..end, s = products[point][tile][vectors * LANES] */
INLINE void transform_output(const int m, const FbsWinogradImage* image, const FbsPanel* panel, const float* products,
                             int64_t begin, int64_t end, int64_t plane) {
  const int a = m + 2;
  const int64_t out_active = image->all->out_active;
  const V low = BROADCAST(image->all->low), high = BROADCAST(image->all->high);
  for (int64_t tile = begin; tile < end; tile++) {
    const int32_t top = (int32_t)(tile / image->tiles_across) * m, left = (int32_t)(tile % image->tiles_across) * m;
    const int32_t rows = image->out_height - top < m ? image->out_height - top : m;
    const int32_t across = image->out_width - left < m ? image->out_width - left : m;
    for (int32_t v = 0; v < panel->vectors; v++, products += LANES) {
      const int32_t channel = (panel->first_vector + v) * LANES;
      const int32_t lanes = out_active - channel < LANES ? (int32_t)(out_active - channel) : LANES;
      const V gate = LOAD(image->all->gate + channel), bias = LOAD(image->all->bias + channel);
      V columns[4][kMostPoints];
      UNROLL for (int x = 0; x < a; x++) {
        V s[kMostPoints], out[4];
        UNROLL for (int y = 0; y < a; y++) s[y] = LOAD(products + (y * a + x) * plane);
        transform_products(m, s, out);
        UNROLL for (int y = 0; y < m; y++) columns[y][x] = out[y];
      }
      UNROLL for (int y = 0; y < m; y++) {
        V out[4];
        transform_products(m, columns[y], out);
        float* to = image->all->y + ((int64_t)(top + y) * image->out_width + left) * out_active + channel;
        UNROLL for (int x = 0; x < m; x++, to += out_active) {
          if (y >= rows || x >= across) continue;
          const V result = MIN(high, MAX(low, MUL(gate, ADD(out[x], bias))));
          if (lanes == LANES) {
            STORE(to, result);
          } else {
            STORE_FIRST(to, result, lanes);
          }
        }
      }
    }
  }
}

#define DEFINE_WINOGRAD(m)                                                                                     \
  static void pack_filters##m(const FbsPacking* packing, const FbsPanel* panel, int64_t begin, int64_t end,    \
                              int64_t plane, float* packed) {                                                  \
    pack_filters(m, packing, panel, begin, end, plane, packed);                                                \
  }                                                                                                            \
  static void transform_input##m(const FbsWinogradImage* image, int64_t begin, int64_t end, int64_t plane,     \
                                 float* windows) {                                                             \
    transform_input(m, image, begin, end, plane, windows);                                                     \
  }                                                                                                            \
  static void transform_output##m(const FbsWinogradImage* image, const FbsPanel* panel, const float* products, \
                                  int64_t begin, int64_t end, int64_t plane) {                                 \
    transform_output(m, image, panel, products, begin, end, plane);                                            \
  }
DEFINE_WINOGRAD(2)
DEFINE_WINOGRAD(4)
