/* The convolution as a matrix product: the active rows and columns of the weights are packed side by side, panel by
 * panel, and multiplied with the windows of the input, which are read in place. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "multiplication.h"
#include "packing.h"
#include "workspace.h"

/* Packed weights that are multiplied before more are packed. The larger, the longer the stretches of the weights that
 * are read at once, and the faster those that come from memory: on Zen 5, a layer of 512 channels at 7x7 and half the
 * density takes .65 ms instead of .73 with 256 KiB, and .33 instead of .36 where its weights are cached. 2 MiB add
 * nothing. */
enum { kChunkBytes = 1024 * 1024 };

typedef struct {
  size_t multiplication, stretches, first_stretch, packed, size;
} Layout;

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  const FbsKernels* kernels;
  int32_t taps;
  int32_t vectors; /* of output channels, the last one perhaps partly used */
  int32_t panels;
  FbsPanel* panel;
  int32_t* offsets; /* see FbsMultiplication */
  /* All weights in order, where all channels are active, else NULL. They serve a dense input; one with indices may hold
   * its channels in another order and has its weights packed in each run, these being there for nothing: whether there
   * are indices is known only then. */
  float* packed;
} Gemm;

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

static int packs_stretches(const Gemm* gemm) { return gemm->shape.out_channels >= gemm->kernels->lanes; }

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
  if (packs_stretches(gemm)) {
    const int32_t lanes = gemm->kernels->lanes;
    fbs_find_stretches(winners, gemm->shape.out_active, gemm->shape.out_channels - lanes, lanes, lanes, stretches,
                       first_stretch);
  }
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
  Layout layout = {0};
  layout.multiplication = fbs_reserve(&layout.size, fbs_multiplication_workspace_size(&gemm->shape));
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
  gemm->vectors = fbs_vectors_of(s->out_active, kernels->lanes);
  gemm->panel = malloc(sizeof *gemm->panel * (size_t)gemm->vectors);
  gemm->offsets = fbs_find_offsets(s);
  if (gemm->panel == NULL || gemm->offsets == NULL) {
    destroy(gemm);
    return NULL;
  }
  gemm->panels = fbs_divide_into_panels(gemm->vectors, gemm->panel);
  const int all = s->in_active == s->in_channels && s->out_active == s->out_channels;
  /* Fewer channels than a vector has lanes would be padded to many times their size. */
  if (all && packs_stretches(gemm) && !pack_all(gemm)) {
    destroy(gemm);
    return NULL;
  }
  return gemm;
}

static size_t workspace_size(const void* plan, int32_t threads) { return layout_of(plan, threads).size; }

static size_t plan_size(const void* plan) {
  const Gemm* gemm = plan;
  const size_t offsets =
      sizeof *gemm->offsets * (size_t)gemm->taps * (size_t)gemm->shape.out_height * (size_t)gemm->shape.out_width;
  const size_t packed = gemm->packed != NULL ? packed_bytes(gemm, gemm->vectors) : 0;
  return sizeof *gemm + sizeof *gemm->panel * (size_t)gemm->vectors + offsets + packed;
}

static void run(const void* plan, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  const Gemm* gemm = plan;
  const Layout layout = layout_of(gemm, fbs_threads_count(threads));
  char* memory = workspace;
  const FbsMultiplication multiplication =
      fbs_multiplication_of(&gemm->shape, gemm->offsets, gemm->weights.bias, image, y, memory + layout.multiplication);
  if (gemm->packed != NULL && image->in_indices == NULL) {
    fbs_multiply_panels(&multiplication, gemm->kernels, threads, gemm->panel, gemm->panels, gemm->packed);
    return;
  }
  PackTask pack = pack_task(gemm, image->in_indices, image->winners, (FbsStretch*)(memory + layout.stretches),
                            (int32_t*)(memory + layout.first_stretch), (float*)(memory + layout.packed));
  const int32_t most = chunk_panels(gemm, fbs_threads_count(threads));
  for (int32_t begin = 0; begin < gemm->panels; begin += most) {
    pack.panels = gemm->panel + begin;
    pack.count = gemm->panels - begin < most ? gemm->panels - begin : most;
    fbs_threads_run(threads, pack_share, &pack);
    fbs_multiply_panels(&multiplication, gemm->kernels, threads, pack.panels, pack.count, pack.packed);
  }
}

const FbsFloatDriver fbs_gemm = {supports, create, {0, destroy, workspace_size, plan_size, run}};
