/* The convolution as a matrix product: the active rows and columns of the weights are packed side by side, panel by
 * panel, and multiplied with the windows of the input, which are read in place. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "workspace.h"

/* Packed weights that are multiplied before more are packed. The larger, the longer the stretches of the weights that
 * are read at once, and the faster those that come from memory: on Zen 5, a layer of 512 channels at 7x7 and half the
 * density takes .65 ms for .73 with 256 KiB, and .33 for .36 where its weights are in the cache. 2 MiB add nothing. */
enum { kChunkBytes = 1024 * 1024 };

typedef struct {
  size_t gate, bias, zeros, stretches, first_stretch, packed, size;
} Layout;

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  const FbsKernels* kernels;
  int32_t taps, pixels;
  int32_t vectors; /* of output channels, the last one perhaps partly used */
  int32_t panels;
  FbsPanel* panel;
  int32_t* offsets; /* [taps][pixels], see FbsMultiplication */
  /* All weights in order, where all channels are active, else NULL. They serve a dense input; one with indices may hold
   * its channels in another order and has its weights packed in each run, these being there for nothing: whether there
   * are indices is known only then. */
  float* packed;
} Gemm;

/* Panels are two vectors wide, which makes the best tile; an odd vector at the end widens the last one to three. */
static void divide_into_panels(Gemm* gemm) {
  gemm->panels = gemm->vectors > 1 ? gemm->vectors / 2 : 1;
  for (int32_t i = 0; i < gemm->panels; i++) {
    gemm->panel[i] = (FbsPanel){.first_vector = 2 * i, .vectors = 2};
  }
  gemm->panel[gemm->panels - 1].vectors = gemm->vectors - gemm->panel[gemm->panels - 1].first_vector;
}

/* Where each tap of each output pixel lies in the input, -1 where in the padding. */
static void find_offsets(const FbsConv2dShape* s, int32_t* offsets) {
  for (int64_t ky = 0; ky < s->kernel_height; ky++) {
    for (int64_t kx = 0; kx < s->kernel_width; kx++) {
      for (int64_t oy = 0; oy < s->out_height; oy++) {
        const int64_t iy = oy * s->stride_height + ky * s->dilation_height - s->pad_top;
        for (int64_t ox = 0; ox < s->out_width; ox++) {
          const int64_t ix = ox * s->stride_width + kx * s->dilation_width - s->pad_left;
          const int inside = iy >= 0 && iy < s->in_height && ix >= 0 && ix < s->in_width;
          *offsets++ = inside ? (int32_t)((iy * s->in_width + ix) * s->in_active) : -1;
        }
      }
    }
  }
}

static size_t packed_bytes(const Gemm* gemm, int64_t vectors) {
  return sizeof(float) * (size_t)gemm->shape.in_active * (size_t)gemm->taps * (size_t)(vectors * gemm->kernels->lanes);
}

/* Panels that are packed together, and then multiplied: as many as kChunkBytes hold, and at least one for each thread.
 * Chunks are nearly equal. */
static int32_t chunk_panels(const Gemm* gemm, int32_t threads) {
  const size_t fit = kChunkBytes / packed_bytes(gemm, gemm->panel[0].vectors);
  const int64_t most = fit > (size_t)threads ? (int64_t)fit : threads;
  const int64_t chunks = (gemm->panels + most - 1) / most;
  return (int32_t)((gemm->panels + chunks - 1) / chunks);
}

static size_t chunk_bytes(const Gemm* gemm, int32_t threads) {
  const int32_t panels = chunk_panels(gemm, threads), last = gemm->panel[gemm->panels - 1].vectors;
  return packed_bytes(gemm, (int64_t)(panels - 1) * gemm->panel[0].vectors + last);
}

/* ---- Packing ---- */

typedef struct {
  const Gemm* gemm;
  const int32_t* winners;
  const FbsPanel* panels;
  int32_t count;
  FbsPacking packing;
  float* packed;
} PackTask;

/* Covers the winners of each packed vector with as few stretches of `lanes` neighbouring columns as possible. */
static void find_stretches(const Gemm* gemm, const int32_t* winners, FbsStretch* stretches, int32_t* first_stretch) {
  const int32_t lanes = gemm->kernels->lanes, last_column = gemm->shape.out_channels - lanes;
  int32_t count = 0;
  for (int32_t v = 0; v < gemm->vectors; v++) {
    first_stretch[v] = count;
    const int32_t* winner = winners + v * lanes;
    const int32_t left = gemm->shape.out_active - v * lanes, used = left < lanes ? left : lanes;
    for (int32_t lane = 0; lane < used;) {
      FbsStretch* stretch = &stretches[count++];
      stretch->column = winner[lane] < last_column ? winner[lane] : last_column;
      memset(stretch->select, -1, sizeof stretch->select);
      for (; lane < used && winner[lane] - stretch->column < lanes; lane++) {
        stretch->select[lane] = winner[lane] - stretch->column;
      }
    }
  }
  first_stretch[gemm->vectors] = count;
}

static int packs_stretches(const Gemm* gemm) {
  return gemm->kernels->pack != NULL && gemm->shape.out_channels >= gemm->kernels->lanes;
}

/* As the kernels' pack, one channel after the other. */
static void pack_channels(const PackTask* task, int64_t begin, int64_t end) {
  const Gemm* gemm = task->gemm;
  const int64_t lanes = gemm->kernels->lanes, depth = gemm->shape.in_active, taps = gemm->taps;
  for (int64_t row = begin; row < end; row++) {
    const int64_t i = row % depth, t = row / depth;
    const int64_t in = task->packing.in_indices == NULL ? i : task->packing.in_indices[i];
    const float* source = gemm->weights.weights + (in * taps + t) * gemm->shape.out_channels;
    float* packed = task->packed;
    for (int32_t n = 0; n < task->count; n++) {
      const int64_t first = task->panels[n].first_vector * lanes, width = task->panels[n].vectors * lanes;
      const int64_t left = gemm->shape.out_active - first, used = left < width ? left : width;
      float* target = packed + row * width;
      for (int64_t c = 0; c < used; c++) target[c] = source[task->winners[first + c]];
      for (int64_t c = used; c < width; c++) target[c] = 0;
      packed += taps * depth * width;
    }
  }
}

static void pack_share(void* context, int32_t thread, int32_t count) {
  const PackTask* task = context;
  const int64_t rows = (int64_t)task->gemm->shape.in_active * task->gemm->taps;
  const int64_t begin = fbs_share(rows, thread, count), end = fbs_share(rows, thread + 1, count);
  if (packs_stretches(task->gemm)) {
    task->gemm->kernels->pack(&task->packing, task->panels, task->count, begin, end, task->packed);
  } else {
    pack_channels(task, begin, end);
  }
}

static PackTask pack_task(const Gemm* gemm, const int32_t* in_indices, const int32_t* winners, FbsStretch* stretches,
                          int32_t* first_stretch, float* packed) {
  if (packs_stretches(gemm)) find_stretches(gemm, winners, stretches, first_stretch);
  return (PackTask){.gemm = gemm,
                    .winners = winners,
                    .packing = {.weights = gemm->weights.weights,
                                .in_indices = in_indices,
                                .taps = gemm->taps,
                                .depth = gemm->shape.in_active,
                                .out_channels = gemm->shape.out_channels,
                                .stretches = stretches,
                                .first_stretch = first_stretch},
                    .packed = packed};
}

/* ---- Multiplication ---- */

typedef struct {
  const Gemm* gemm;
  FbsMultiplication multiplication;
  const FbsPanel* panels;
  int32_t count;
  const float* packed;
} MultiplyTask;

static int32_t tiles_of(const Gemm* gemm, const FbsPanel* panel) {
  const int32_t most = gemm->kernels->tile_pixels[panel->vectors];
  return gemm->pixels / most + (gemm->pixels % most != 0);
}

/* The tiles of all panels stand in one row, panel after panel, of which each thread takes an equal share. */
static void multiply_share(void* context, int32_t thread, int32_t count) {
  const MultiplyTask* task = context;
  const Gemm* gemm = task->gemm;
  int64_t total = 0;
  for (int32_t n = 0; n < task->count; n++) total += tiles_of(gemm, &task->panels[n]);
  int64_t begin = fbs_share(total, thread, count), end = fbs_share(total, thread + 1, count);
  const float* packed = task->packed;
  for (int32_t n = 0; n < task->count && end > 0; n++) {
    const FbsPanel* panel = &task->panels[n];
    const int32_t tiles = tiles_of(gemm, panel);
    const int64_t last = end < tiles ? end : tiles;
    if (begin < last) {
      gemm->kernels->multiply(&task->multiplication, panel, packed, tiles, begin < 0 ? 0 : (int32_t)begin,
                              (int32_t)last);
    }
    begin -= tiles;
    end -= tiles;
    packed += packed_bytes(gemm, panel->vectors) / sizeof(float);
  }
}

/* ---- The interface ---- */

/* A run on a dense input uses all weights in order: pack them once. */
static int pack_all(Gemm* gemm) {
  const int32_t channels = gemm->shape.out_channels;
  int32_t* winners = malloc(sizeof *winners * (size_t)channels);
  FbsStretch* stretches = malloc(sizeof *stretches * (size_t)channels);
  int32_t* first_stretch = malloc(sizeof *first_stretch * (size_t)(gemm->vectors + 1));
  void* packed; /* bionic has had aligned_alloc only since API 28 */
  const int enough = winners != NULL && stretches != NULL && first_stretch != NULL &&
                     posix_memalign(&packed, 64, packed_bytes(gemm, gemm->vectors)) == 0;
  if (enough) {
    gemm->packed = packed;
    for (int32_t i = 0; i < channels; i++) winners[i] = i;
    PackTask task = pack_task(gemm, NULL, winners, stretches, first_stretch, gemm->packed);
    task.panels = gemm->panel;
    task.count = gemm->panels;
    pack_share(&task, 0, 1);
  }
  free(first_stretch);
  free(stretches);
  free(winners);
  return enough;
}

static Layout layout_of(const Gemm* gemm, int32_t threads) {
  const size_t channels = (size_t)gemm->vectors * (size_t)gemm->kernels->lanes;
  Layout layout = {0};
  layout.gate = fbs_reserve(&layout.size, sizeof(float) * channels);
  layout.bias = fbs_reserve(&layout.size, sizeof(float) * channels);
  layout.zeros = fbs_reserve(&layout.size, sizeof(float) * (size_t)gemm->shape.in_active);
  layout.stretches = fbs_reserve(&layout.size, sizeof(FbsStretch) * (size_t)gemm->shape.out_active);
  layout.first_stretch = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(gemm->vectors + 1));
  layout.packed = fbs_reserve(&layout.size, chunk_bytes(gemm, threads));
  return layout;
}

static void destroy(void* plan) {
  Gemm* gemm = plan;
  if (gemm == NULL) return;
  free(gemm->packed);
  free(gemm->offsets);
  free(gemm->panel);
  free(gemm);
}

static int supports(const FbsConv2dShape* s, const FbsKernels* kernels) {
  (void)s;
  (void)kernels;
  return 1;
}

static void* create(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels) {
  Gemm* gemm = calloc(1, sizeof *gemm);
  if (gemm == NULL) return NULL;
  gemm->shape = *s;
  gemm->weights = *weights;
  gemm->kernels = kernels;
  gemm->taps = s->kernel_height * s->kernel_width;
  gemm->pixels = s->out_height * s->out_width;
  gemm->vectors = s->out_active / kernels->lanes + (s->out_active % kernels->lanes != 0);
  gemm->panel = malloc(sizeof *gemm->panel * (size_t)gemm->vectors);
  gemm->offsets = malloc(sizeof *gemm->offsets * (size_t)gemm->taps * (size_t)gemm->pixels);
  if (gemm->panel == NULL || gemm->offsets == NULL) {
    destroy(gemm);
    return NULL;
  }
  divide_into_panels(gemm);
  find_offsets(s, gemm->offsets);
  if (s->in_active == s->in_channels && s->out_active == s->out_channels && !pack_all(gemm)) {
    destroy(gemm);
    return NULL;
  }
  return gemm;
}

static size_t workspace_size(const void* plan, int32_t threads) { return layout_of(plan, threads).size; }

static size_t plan_size(const void* plan) {
  const Gemm* gemm = plan;
  const size_t offsets = sizeof *gemm->offsets * (size_t)gemm->taps * (size_t)gemm->pixels;
  const size_t packed = gemm->packed != NULL ? packed_bytes(gemm, gemm->vectors) : 0;
  return sizeof *gemm + sizeof *gemm->panel * (size_t)gemm->vectors + offsets + packed;
}

static void run(const void* plan, FbsThreads* threads, const float* x, const int32_t* in_indices, const float* g,
                const int32_t* winners, float* y, void* workspace) {
  const Gemm* gemm = plan;
  const FbsConv2dShape* s = &gemm->shape;
  const Layout layout = layout_of(gemm, fbs_threads_count(threads));
  char* memory = workspace;
  float* gate = (float*)(memory + layout.gate);
  float* bias = (float*)(memory + layout.bias);
  float* zeros = (float*)(memory + layout.zeros);
  const int32_t channels = gemm->vectors * gemm->kernels->lanes;
  for (int32_t c = 0; c < channels; c++) {
    gate[c] = c < s->out_active ? g[winners[c]] : 0;
    bias[c] = c < s->out_active ? gemm->weights.bias[winners[c]] : 0;
  }
  memset(zeros, 0, sizeof(float) * (size_t)s->in_active);

  MultiplyTask multiply = {.gemm = gemm,
                           .multiplication = {.x = x,
                                              .zeros = zeros,
                                              .y = y,
                                              .pixels = gemm->pixels,
                                              .taps = gemm->taps,
                                              .depth = s->in_active,
                                              .out_active = s->out_active,
                                              .offsets = gemm->offsets,
                                              .gate = gate,
                                              .bias = bias,
                                              .low = s->activation == kFbsActivationNone ? -INFINITY : 0,
                                              .high = s->activation == kFbsActivationRelu6 ? 6 : INFINITY}};
  if (gemm->packed != NULL && in_indices == NULL) {
    multiply.panels = gemm->panel;
    multiply.count = gemm->panels;
    multiply.packed = gemm->packed;
    fbs_threads_run(threads, multiply_share, &multiply);
    return;
  }
  PackTask pack = pack_task(gemm, in_indices, winners, (FbsStretch*)(memory + layout.stretches),
                            (int32_t*)(memory + layout.first_stretch), (float*)(memory + layout.packed));
  const int32_t most = chunk_panels(gemm, fbs_threads_count(threads));
  for (int32_t begin = 0; begin < gemm->panels; begin += most) {
    pack.panels = multiply.panels = gemm->panel + begin;
    pack.count = multiply.count = gemm->panels - begin < most ? gemm->panels - begin : most;
    multiply.packed = pack.packed;
    fbs_threads_run(threads, pack_share, &pack);
    fbs_threads_run(threads, multiply_share, &multiply);
  }
}

const FbsDriver fbs_gemm = {supports, create, destroy, workspace_size, plan_size, run};
