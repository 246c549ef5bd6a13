#include "gemm_int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blocks_int8.h"
#include "image_int8.h"
#include "packing.h"
#include "tiles.h"
#include "workspace.h"

/* Packed weights that are multiplied before more are packed: see gemm.c. */
enum { kChunkBytes = 1024 * 1024 };

/* Weights that may still be in L2 when the layer runs again. The rows of larger ones are fetched before they are
 * packed: within ResNet-18 half of 512 channels at 7x7 take 0.107 ms then, 0.138 ms without; alone, which is rare,
 * 0.108 instead of 0.092 ms (Zen 5, 1 MB of L2). */
enum { kNearBytes = 512 * 1024 };

typedef struct {
  size_t image, winners, rows, stretches, first_stretch, sums, packed, size;
} Layout;

/* What an output channel's sum is started with, multiplied with and so on; each padded to whole vectors. */
typedef struct {
  int32_t* start;
  float *scale, *bias, *gate;
} Channels;

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dInt8Weights weights;
  const FbsInt8Kernels* kernels;
  FbsInt8Image image;
  int32_t taps;      /* of the kernel, */
  int32_t run_taps;  /* of each run: neighbouring ones */
  int32_t run_count; /* runs[run_count]: see FbsInt8Multiplication */
  int32_t run_quads;
  int32_t* runs;
  int32_t vectors; /* of output channels, the last one perhaps partly used */
  int32_t panels;
  FbsPanel* panel;
  /* The last rows of the weights, from tail_row on, beyond whose end kFbsInt8Spare bytes can be read, and then a row of
   * zeros, which is as well followed. */
  int8_t* tail;
  int64_t tail_row;
  int8_t* blocks; /* see blocks_int8.h; NULL where they do not serve, or no memory is left for them */
  /* All weights in order, and their sums, where all channels are active, else NULL; see gemm.c. */
  int8_t* packed;
  int32_t* packed_sums;
} Gemm;

static int64_t quads_of(const Gemm* gemm) { return (int64_t)gemm->run_count * gemm->run_quads; }
static int64_t padded_channels(const Gemm* gemm) { return (int64_t)gemm->vectors * gemm->kernels->lanes; }

static size_t packed_bytes(const Gemm* gemm, int64_t vectors) {
  return (size_t)(4 * quads_of(gemm)) * (size_t)(vectors * gemm->kernels->lanes);
}

/* As many as kChunkBytes hold, and at least one for each thread. Chunks are nearly equal. */
static int32_t chunk_panels(const Gemm* gemm, int32_t threads) {
  const size_t fit = kChunkBytes / packed_bytes(gemm, gemm->panel[0].vectors);
  const int64_t most = fit > (size_t)threads ? (int64_t)fit : threads;
  const int64_t chunks = (gemm->panels + most - 1) / most;
  return (int32_t)((gemm->panels + chunks - 1) / chunks);
}

/* The width of the tiles with most sums: where a pixel of y takes four windows, of a multiple of four. */
static int32_t widest_panel(const FbsInt8Kernels* kernels, int max_pool) {
  int32_t widest = 1, most = 0;
  for (int32_t v = 1; v <= kernels->vectors; v++) {
    const int32_t sums = v * (kernels->tile_pixels[v] / fbs_int8_windows(max_pool));
    if (sums >= most) most = sums, widest = v;
  }
  return widest;
}

/* Nearly equal panels, the first ones perhaps a vector wider. */
static int32_t divide_into_panels(int32_t vectors, int32_t widest, FbsPanel* panels) {
  const int32_t count = (vectors + widest - 1) / widest;
  for (int32_t i = 0, first = 0; i < count; first += panels[i++].vectors) {
    panels[i] = (FbsPanel){.first_vector = first, .vectors = vectors / count + (i < vectors % count)};
  }
  return count;
}

/* ---- Packing ---- */

/* The rows of weights in the order of a window's bytes; a run's last quad is filled up with zeros. */
static void find_rows(const Gemm* gemm, const int32_t* in_indices, const int8_t** rows) {
  const int64_t depth = gemm->shape.in_active, width = gemm->shape.out_channels, taps = gemm->taps;
  const int64_t all = gemm->shape.in_channels * taps;
  const int64_t run_depth = gemm->run_taps * depth, run_rows = 4 * (int64_t)gemm->run_quads;
  for (int64_t i = 0; i < depth; i++) {
    rows[i] = gemm->weights.weights + (in_indices == NULL ? i : in_indices[i]) * taps * width;
  }
  for (int64_t t = 1; t < taps; t++) { /* those of the other taps are as far from these for all channels */
    const int8_t** row = rows + t / gemm->run_taps * run_rows + t % gemm->run_taps * depth;
    for (int64_t i = 0; i < depth; i++) row[i] = rows[i] + t * width;
  }
  for (int64_t i = 0; i < depth; i++) { /* but for the last rows */
    const int64_t first = (in_indices == NULL ? i : in_indices[i]) * taps - gemm->tail_row;
    for (int64_t t = first < 0 ? -first : 0; t < taps; t++) {
      rows[t / gemm->run_taps * run_rows + t % gemm->run_taps * depth + i] = gemm->tail + (first + t) * width;
    }
  }
  const int8_t* zeros = gemm->tail + (all - gemm->tail_row) * width + kFbsInt8Spare;
  for (int64_t run = 0; run < gemm->run_count; run++) {
    for (int64_t i = run_depth; i < run_rows; i++) rows[run * run_rows + i] = zeros;
  }
}

typedef struct {
  const Gemm* gemm;
  FbsInt8Packing packing;
  const int32_t* winners;
  const int32_t* quads; /* of the blocks to copy; NULL: there are none */
  const FbsPanel* panels;
  int32_t count;
  int8_t* packed;
  int32_t* sums; /* [thread][padded channels], or NULL */
} PackTask;

static void pack_share(void* context, int32_t thread, int32_t count) {
  const PackTask* task = context;
  const int64_t quads = task->packing.quads;
  const int64_t begin = fbs_share(quads, thread, count), end = fbs_share(quads, thread + 1, count);
  if (task->quads != NULL) {
    fbs_int8_copy_blocks(&task->gemm->shape, task->gemm->kernels->lanes, task->gemm->blocks, task->quads, task->winners,
                         task->panels, task->count, begin, end, task->packed);
    return;
  }
  task->gemm->kernels->pack(&task->packing, task->panels, task->count, begin, end, task->packed,
                            task->sums == NULL ? NULL : task->sums + thread * padded_channels(task->gemm));
}

/* `rows` has room for the rows' pointers, or the quads of blocks instead. */
static PackTask pack_task(const Gemm* gemm, const int32_t* in_indices, const int32_t* winners, const int8_t** rows,
                          FbsStretch* stretches, int32_t* first_stretch, int8_t* packed, int32_t* sums) {
  if (gemm->blocks != NULL && sums == NULL &&
      fbs_int8_find_blocks(&gemm->shape, gemm->kernels->lanes, in_indices, (int32_t*)rows)) {
    return (PackTask){.gemm = gemm,
                      .packing = {.quads = quads_of(gemm)},
                      .winners = winners,
                      .quads = (const int32_t*)rows,
                      .packed = packed};
  }
  find_rows(gemm, in_indices, rows);
  fbs_find_stretches(winners, gemm->shape.out_active, gemm->shape.out_channels, gemm->kernels->lanes,
                     gemm->kernels->stretch, stretches, first_stretch);
  return (PackTask){
      .gemm = gemm,
      .packing = {.rows = rows,
                  .quads = quads_of(gemm),
                  .fetch = (int64_t)gemm->shape.in_channels * gemm->taps * gemm->shape.out_channels > kNearBytes,
                  .stretches = stretches,
                  .first_stretch = first_stretch},
      .packed = packed,
      .sums = sums};
}

/* A run on a dense input uses all weights in order: pack them once. */
static int pack_all(Gemm* gemm) {
  const size_t channels = (size_t)gemm->shape.out_channels;
  int32_t* winners = malloc(sizeof *winners * channels);
  const int8_t** rows = malloc(sizeof *rows * 4 * (size_t)quads_of(gemm));
  FbsStretch* stretches = malloc(sizeof *stretches * channels);
  int32_t* first_stretch = malloc(sizeof *first_stretch * (size_t)(gemm->vectors + 1));
  gemm->packed_sums = calloc((size_t)padded_channels(gemm), sizeof *gemm->packed_sums);
  void* packed; /* bionic has had aligned_alloc only since API 28 */
  const int enough = winners != NULL && rows != NULL && stretches != NULL && first_stretch != NULL &&
                     gemm->packed_sums != NULL && posix_memalign(&packed, 64, packed_bytes(gemm, gemm->vectors)) == 0;
  if (enough) {
    gemm->packed = packed;
    for (size_t i = 0; i < channels; i++) winners[i] = (int32_t)i;
    PackTask task = pack_task(gemm, NULL, winners, rows, stretches, first_stretch, gemm->packed, gemm->packed_sums);
    task.panels = gemm->panel;
    task.count = gemm->panels;
    pack_share(&task, 0, 1);
  }
  free(first_stretch);
  free(stretches);
  free(rows);
  free(winners);
  return enough;
}

/* ---- Multiplication ---- */

typedef struct {
  const FbsInt8Kernels* kernels;
  const FbsInt8Multiplication* multiplication;
  const int8_t* packed;
} MultiplyTask;

static void multiply(const void* context, const FbsPanel* panel, int32_t vectors, int32_t tiles, int32_t begin,
                     int32_t end) {
  const MultiplyTask* task = context;
  const FbsInt8Multiplication* all = task->multiplication;
  const int64_t before = 4 * (int64_t)all->run_count * all->run_quads * vectors * task->kernels->lanes;
  task->kernels->multiply(all, panel, task->packed + before, tiles, begin, end);
}

/* start = -(zero - origin) * the sum of the channel's weights: what the zero point adds to its sums. */
static void find_starts(const Gemm* gemm, const FbsPanel* panels, int32_t count, const int32_t* sums, int32_t parts,
                        int32_t zero, int32_t* start) {
  const FbsPanel* last = &panels[count - 1];
  const int64_t lanes = gemm->kernels->lanes, padded = padded_channels(gemm);
  for (int64_t c = panels->first_vector * lanes; c < (last->first_vector + last->vectors) * lanes; c++) {
    int32_t sum = 0;
    for (int64_t part = 0; part < parts; part++) sum += sums[part * padded + c];
    start[c] = -zero * sum;
  }
}

static Channels channels_of(const Gemm* gemm, const FbsQuantisation* quantisation, const float* g,
                            const int32_t* winners, void* memory) {
  const int64_t padded = padded_channels(gemm);
  Channels channels = {.start = memory};
  channels.scale = (float*)(channels.start + padded);
  channels.bias = channels.scale + padded;
  channels.gate = channels.bias + padded;
  memset(memory, 0, (sizeof(int32_t) + 3 * sizeof(float)) * (size_t)padded);
  for (int64_t c = 0; c < gemm->shape.out_active; c++) {
    channels.scale[c] = quantisation->scale * gemm->weights.scales[winners[c]];
    channels.bias[c] = gemm->weights.bias[winners[c]];
    channels.gate[c] = g[winners[c]];
  }
  return channels;
}

/* ---- The interface ---- */

static Layout layout_of(const Gemm* gemm, int32_t threads) {
  const size_t padded = (size_t)padded_channels(gemm);
  const int32_t panels = chunk_panels(gemm, threads);
  Layout layout = {0};
  layout.image = fbs_reserve(&layout.size, (size_t)fbs_int8_image_bytes(&gemm->image, INT32_MAX) + kFbsInt8Spare);
  layout.winners = fbs_reserve(&layout.size, (sizeof(int32_t) + 3 * sizeof(float)) * padded);
  const size_t ahead = sizeof(int32_t) * kFbsInt8BlocksAhead;
  layout.rows = fbs_reserve(&layout.size, sizeof(int8_t*) * 4 * (size_t)quads_of(gemm) + ahead);
  layout.stretches = fbs_reserve(&layout.size, sizeof(FbsStretch) * (size_t)gemm->shape.out_active);
  layout.first_stretch = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(gemm->vectors + 1));
  layout.sums = fbs_reserve(&layout.size, sizeof(int32_t) * padded * (size_t)threads);
  layout.packed = fbs_reserve(&layout.size, packed_bytes(gemm, (int64_t)panels * gemm->panel[0].vectors));
  return layout;
}

static void destroy(void* plan) {
  Gemm* gemm = plan;
  if (gemm == NULL) return;
  free(gemm->packed_sums);
  free(gemm->packed);
  free(gemm->blocks);
  free(gemm->tail);
  free(gemm->runs);
  free(gemm->panel);
  free(gemm);
}

/* Neighbouring taps of a row of the kernel are neighbours in the image, unless they are dilated. */
static int find_runs(Gemm* gemm) {
  const FbsConv2dShape* s = &gemm->shape;
  gemm->run_taps = s->dilation_width == 1 ? s->kernel_width : 1;
  gemm->run_count = gemm->taps / gemm->run_taps;
  gemm->run_quads = (int32_t)(((int64_t)gemm->run_taps * s->in_active + 3) / 4);
  gemm->runs = malloc(sizeof *gemm->runs * (size_t)gemm->run_count);
  if (gemm->runs == NULL) return 0;
  for (int32_t run = 0; run < gemm->run_count; run++) {
    const int64_t ky = run * gemm->run_taps / s->kernel_width, kx = run * gemm->run_taps % s->kernel_width;
    const int64_t row = ky * s->dilation_height, column = kx * s->dilation_width;
    gemm->runs[run] = (int32_t)((row * gemm->image.columns.size + column) * s->in_active);
  }
  return 1;
}

static size_t tail_bytes(const Gemm* gemm) {
  const int64_t rows = (int64_t)gemm->shape.in_channels * gemm->taps - gemm->tail_row;
  return (size_t)((rows + 1) * gemm->shape.out_channels + 2 * kFbsInt8Spare);
}

static int copy_tail(Gemm* gemm) {
  const int64_t width = gemm->shape.out_channels, rows = (int64_t)gemm->shape.in_channels * gemm->taps;
  const int64_t copied = kFbsInt8Spare / width + 1;
  gemm->tail_row = rows > copied ? rows - copied : 0;
  gemm->tail = calloc(tail_bytes(gemm), 1);
  if (gemm->tail == NULL) return 0;
  memcpy(gemm->tail, gemm->weights.weights + gemm->tail_row * width, (size_t)((rows - gemm->tail_row) * width));
  return 1;
}

void* fbs_gemm_int8_create(const FbsConv2dShape* s, const FbsConv2dInt8Weights* weights,
                           const FbsInt8Kernels* kernels) {
  Gemm* gemm = calloc(1, sizeof *gemm);
  if (gemm == NULL) return NULL;
  gemm->shape = *s;
  gemm->weights = *weights;
  gemm->kernels = kernels;
  gemm->image = fbs_int8_image_of(s);
  gemm->taps = s->kernel_height * s->kernel_width;
  gemm->vectors = fbs_vectors_of(s->out_active, kernels->lanes);
  gemm->panel = malloc(sizeof *gemm->panel * (size_t)gemm->vectors);
  if (gemm->panel == NULL || !find_runs(gemm) || !copy_tail(gemm)) {
    destroy(gemm);
    return NULL;
  }
  gemm->panels = divide_into_panels(gemm->vectors, widest_panel(kernels, s->max_pool), gemm->panel);
  const int all = s->in_active == s->in_channels && s->out_active == s->out_channels;
  if (!all && fbs_int8_blocks_serve(s, kernels)) gemm->blocks = fbs_int8_blocks_of(s, weights->weights, kernels->lanes);
  if (all && !pack_all(gemm)) {
    destroy(gemm);
    return NULL;
  }
  return gemm;
}

static size_t workspace_size(const void* plan, int32_t threads) { return layout_of(plan, threads).size; }

static size_t plan_size(const void* plan) {
  const Gemm* gemm = plan;
  const size_t sums = sizeof *gemm->packed_sums * (size_t)padded_channels(gemm);
  const size_t packed = gemm->packed != NULL ? packed_bytes(gemm, gemm->vectors) + sums : 0;
  return sizeof *gemm + sizeof *gemm->panel * (size_t)gemm->vectors + sizeof *gemm->runs * (size_t)gemm->run_count +
         tail_bytes(gemm) + packed + (gemm->blocks != NULL ? fbs_int8_blocks_bytes(&gemm->shape) : 0);
}

static FbsRange finite_range(const FbsConv2dShape* s, const FbsGatedImage* image) {
  if (!isinf(image->range.low) && !isinf(image->range.high)) return image->range;
  return fbs_finite_range(image->x, (int64_t)s->in_height * s->in_width * s->in_active);
}

static void run(const void* plan, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  const Gemm* gemm = plan;
  const FbsConv2dShape* s = &gemm->shape;
  const int32_t count = fbs_threads_count(threads);
  const Layout layout = layout_of(gemm, count);
  char* memory = workspace;
  uint8_t* bytes = (uint8_t*)memory + layout.image;
  const FbsQuantisation quantisation = fbs_quantisation_of(finite_range(s, image));
  fbs_quantise_image(&gemm->image, gemm->kernels, threads, image->x, quantisation, bytes);
  const Channels channels = channels_of(gemm, &quantisation, image->g, image->winners, memory + layout.winners);
  const int64_t row_bytes = gemm->image.columns.size * s->in_active;
  const FbsInt8Multiplication multiplication = {
      .x = bytes,
      .y = y,
      .pixels = fbs_y_height(s) * fbs_y_width(s),
      .out_width = fbs_y_width(s),
      .out_active = s->out_active,
      .max_pool = s->max_pool,
      .pixel_step = gemm->image.columns.stride * s->in_active,
      .row_step = gemm->image.rows.stride * row_bytes,
      .runs = gemm->runs,
      .run_count = gemm->run_count,
      .run_quads = gemm->run_quads,
      .start = channels.start,
      .scale = channels.scale,
      .bias = channels.bias,
      .gate = channels.gate,
      .low = fbs_lowest(s->activation),
      .high = fbs_highest(s->activation),
  };
  MultiplyTask task = {gemm->kernels, &multiplication, gemm->packed};
  FbsTiles tiles = {.panels = gemm->panel,
                    .count = gemm->panels,
                    .pixels = multiplication.pixels,
                    .tile_pixels = gemm->kernels->tile_pixels,
                    .windows = fbs_int8_windows(s->max_pool),
                    .multiply = multiply,
                    .context = &task};
  const int32_t zero = quantisation.zero - gemm->kernels->origin;
  if (gemm->packed != NULL && image->in_indices == NULL) {
    find_starts(gemm, gemm->panel, gemm->panels, gemm->packed_sums, 1, zero, channels.start);
    fbs_multiply_tiles(&tiles, threads);
    return;
  }
  int32_t* sums = zero == 0 ? NULL : (int32_t*)(memory + layout.sums);
  if (sums != NULL) memset(sums, 0, sizeof *sums * (size_t)padded_channels(gemm) * (size_t)count);
  PackTask pack = pack_task(gemm, image->in_indices, image->winners, (const int8_t**)(memory + layout.rows),
                            (FbsStretch*)(memory + layout.stretches), (int32_t*)(memory + layout.first_stretch),
                            (int8_t*)(memory + layout.packed), sums);
  task.packed = pack.packed;
  const int32_t most = chunk_panels(gemm, count);
  for (int32_t begin = 0; begin < gemm->panels; begin += most) {
    pack.panels = tiles.panels = gemm->panel + begin;
    pack.count = tiles.count = gemm->panels - begin < most ? gemm->panels - begin : most;
    fbs_threads_run(threads, pack_share, &pack);
    if (sums != NULL) find_starts(gemm, pack.panels, pack.count, sums, count, zero, channels.start);
    fbs_multiply_tiles(&tiles, threads);
  }
}

const FbsDriver fbs_gemm_int8 = {1, destroy, workspace_size, plan_size, run};
