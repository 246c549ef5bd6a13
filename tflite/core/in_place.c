/* The convolution with the weights read in place: a vector holds neighbouring output pixels of one channel, so a weight
 * is broadcast from wherever it is, and only the input has to be rearranged. Pays on small maps, where a packed weight
 * would serve few pixels: 3x3 at 7x7x512, density 0.5, in 0.24 ms where gemm.c takes 0.35 (Zen 5, AVX-512).
 *
 * A plan holds a second copy of the weights, in an order in which the rows of the winners stream through the cache:
 * from the file's order, rows of inputs, the same loop took 1.1 to 2.2 times as long, even when it fetched ahead. */
#include <stdlib.h>

#include "driver.h"
#include "multiplication.h"
#include "workspace.h"

typedef struct {
  size_t multiplication, columns, windows, odd_windows, sums, size;
} Layout;

typedef struct {
  FbsConv2dShape shape;
  const float* bias;
  const FbsKernels* kernels;
  int32_t taps, pixels;
  int32_t vectors, odd_pixels; /* what the output pixels are cut into */
  int32_t tiles, tile_vectors; /* at most this many vectors in each of the tiles */
  int32_t* offsets;            /* see FbsMultiplication */
  float* weights;              /* [out_channels][taps][in_channels] */
  Layout layout;
} InPlace;

/* Few pixels more than fill their vectors are computed one by one, many as one vector more. */
static void divide_into_tiles(InPlace* plan) {
  const int32_t lanes = plan->kernels->lanes;
  plan->vectors = plan->pixels / lanes;
  plan->odd_pixels = plan->pixels % lanes;
  if (plan->vectors == 0 || plan->odd_pixels > kFbsMaxOddPixels) {
    plan->vectors++;
    plan->odd_pixels = 0;
  }
  int32_t most = kFbsMaxPixelVectors;
  while (plan->kernels->pixel_tile_channels[most] == 0) most--;
  plan->tiles = (plan->vectors + most - 1) / most;
  plan->tile_vectors = (plan->vectors + plan->tiles - 1) / plan->tiles;
}

/* [in_channels][taps][out_channels] to [out_channels][taps][in_channels], a cache line's worth of inputs at a time */
static void transpose_weights(const FbsConv2dShape* s, const float* from, float* to) {
  enum { kBlock = 16 };
  const int64_t ins = s->in_channels, outs = s->out_channels, taps = (int64_t)s->kernel_height * s->kernel_width;
  for (int64_t first = 0; first < ins; first += kBlock) {
    const int64_t last = first + kBlock < ins ? first + kBlock : ins;
    for (int64_t t = 0; t < taps; t++) {
      for (int64_t o = 0; o < outs; o++) {
        for (int64_t i = first; i < last; i++) to[(o * taps + t) * ins + i] = from[(i * taps + t) * outs + o];
      }
    }
  }
}

static Layout layout_of(const InPlace* plan) {
  const FbsConv2dShape* s = &plan->shape;
  const size_t rows = (size_t)plan->taps * (size_t)s->in_active;
  const size_t width = (size_t)plan->tile_vectors * (size_t)plan->kernels->lanes;
  Layout layout = {0};
  layout.multiplication = fbs_reserve(&layout.size, fbs_multiplication_workspace_size(s));
  layout.columns = fbs_reserve(&layout.size, sizeof(int32_t) * rows);
  layout.windows = fbs_reserve(&layout.size, sizeof(float) * rows * width);
  layout.odd_windows = fbs_reserve(&layout.size, sizeof(float) * rows * (size_t)plan->odd_pixels);
  layout.sums = fbs_reserve(&layout.size, sizeof(float) * ((size_t)s->out_active + kFbsMaxLanes) * width);
  return layout;
}

/* ---- One tile of pixels, for all channels ---- */

typedef struct {
  const InPlace* plan;
  const int32_t* winners;
  FbsPixelTile tile;
} TileTask;

static void copy_share(void* context, int32_t thread, int32_t count) {
  const TileTask* task = context;
  const FbsKernels* kernels = task->plan->kernels;
  const int64_t depth = task->plan->shape.in_active, blocks = (depth + kernels->lanes - 1) / kernels->lanes;
  const int64_t total = task->plan->taps * blocks;
  kernels->copy_windows(&task->tile, fbs_share(total, thread, count), fbs_share(total, thread + 1, count));
}

static void multiply_share(void* context, int32_t thread, int32_t count) {
  const TileTask* task = context;
  const InPlace* plan = task->plan;
  const int64_t row = (int64_t)plan->taps * plan->shape.in_channels, k = plan->shape.out_active;
  const int32_t channels = plan->kernels->pixel_tile_channels[task->tile.vectors];
  const int64_t total = (k + channels - 1) / channels;
  const int64_t end = fbs_share(total, thread + 1, count);
  for (int64_t n = fbs_share(total, thread, count); n < end; n++) {
    const float* weights[kFbsMaxTileChannels];
    for (int64_t c = 0; c < channels; c++) { /* the last channel fills up the last tile */
      weights[c] = plan->weights + task->winners[n * channels + c < k ? n * channels + c : k - 1] * row;
    }
    plan->kernels->multiply_in_place(&task->tile, weights, (int32_t)(n * channels));
  }
}

static void activate_share(void* context, int32_t thread, int32_t count) {
  const TileTask* task = context;
  const FbsKernels* kernels = task->plan->kernels;
  const int64_t total = (task->plan->shape.out_active + kernels->lanes - 1) / kernels->lanes;
  kernels->activate_pixels(&task->tile, fbs_share(total, thread, count), fbs_share(total, thread + 1, count));
}

/* ---- The interface ---- */

/* No more than 1 GiB for the copy, nor for the windows and sums of one tile. */
static int supports(const FbsConv2dShape* s, const FbsKernels* kernels) {
  const double most = 1u << 30, rows = (double)s->kernel_height * s->kernel_width * s->in_active + s->out_active;
  return (double)fbs_count_weights(s) * sizeof(float) <= most &&
         rows * (kFbsMaxPixelVectors * kernels->lanes + kFbsMaxOddPixels + 1) * sizeof(float) <= most;
}

static void destroy(void* context) {
  InPlace* plan = context;
  if (plan == NULL) return;
  free(plan->weights);
  free(plan->offsets);
  free(plan);
}

static void* create(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels) {
  InPlace* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *s;
  plan->bias = weights->bias;
  plan->kernels = kernels;
  plan->taps = s->kernel_height * s->kernel_width;
  plan->pixels = s->out_height * s->out_width;
  divide_into_tiles(plan);
  plan->offsets = fbs_find_offsets(s);
  plan->weights = malloc(sizeof *plan->weights * fbs_count_weights(s));
  if (plan->offsets == NULL || plan->weights == NULL) {
    destroy(plan);
    return NULL;
  }
  transpose_weights(s, weights->weights, plan->weights);
  plan->layout = layout_of(plan);
  return plan;
}

static size_t workspace_size(const void* plan, int32_t threads) {
  (void)threads;
  return ((const InPlace*)plan)->layout.size;
}

static size_t plan_size(const void* context) {
  const InPlace* plan = context;
  return sizeof *plan + sizeof *plan->offsets * (size_t)plan->taps * (size_t)plan->pixels +
         sizeof *plan->weights * fbs_count_weights(&plan->shape);
}

static void run(const void* context, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  const InPlace* plan = context;
  const FbsConv2dShape* s = &plan->shape;
  const Layout* layout = &plan->layout;
  char* memory = workspace;
  int32_t* columns = (int32_t*)(memory + layout->columns);
  for (int64_t t = 0; t < plan->taps; t++) {
    for (int64_t i = 0; i < s->in_active; i++) {
      columns[t * s->in_active + i] =
          (int32_t)(t * s->in_channels + (image->in_indices == NULL ? i : image->in_indices[i]));
    }
  }

  const FbsMultiplication multiplication =
      fbs_multiplication_of(s, plan->offsets, plan->bias, image, y, memory + layout->multiplication);
  /* Tiles are nearly equal, the wider ones first: the odd pixels come with the last one. */
  for (int32_t n = 0; n < plan->tiles; n++) {
    const int32_t begin = plan->vectors - (int32_t)fbs_share(plan->vectors, plan->tiles - n, plan->tiles);
    const int32_t end = plan->vectors - (int32_t)fbs_share(plan->vectors, plan->tiles - n - 1, plan->tiles);
    TileTask task = {.plan = plan,
                     .winners = image->winners,
                     .tile = {.all = &multiplication,
                              .first_pixel = (int64_t)begin * plan->kernels->lanes,
                              .vectors = end - begin,
                              .odd_pixels = n == plan->tiles - 1 ? plan->odd_pixels : 0,
                              .columns = columns,
                              .windows = (float*)(memory + layout->windows),
                              .odd_windows = (float*)(memory + layout->odd_windows),
                              .sums = (float*)(memory + layout->sums)}};
    fbs_threads_run(threads, copy_share, &task);
    fbs_threads_run(threads, multiply_share, &task);
    fbs_threads_run(threads, activate_share, &task);
  }
}

const FbsFloatDriver fbs_in_place = {supports, create, {0, destroy, workspace_size, plan_size, run}};
