/* The convolution as a matrix product: the active rows and columns of the weights are packed side by side, panel by
 * panel, and multiplied with the windows of the input, which are read in place. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "multiplication.h"
#include "workspace.h"

/* Packed weights that are multiplied before more are packed: they should stay in the L2 cache, of which the cores in
 * question have 512 KiB to 2 MiB. From 96 KiB to 1 MiB the choice made less than 3 % on M-CifarNet's layers (Zen 5). */
enum { kChunkBytes = 256 * 1024 };

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
  Layout layout;
} Gemm;

static size_t packed_bytes(const Gemm* gemm, int64_t vectors) {
  return sizeof(float) * (size_t)gemm->shape.in_active * (size_t)gemm->taps * (size_t)(vectors * gemm->kernels->lanes);
}

/* The end of the chunk that begins with panel `begin`: as many panels as kChunkBytes hold, but at least one. */
static int32_t chunk_end(const Gemm* gemm, int32_t begin) {
  int32_t end = begin + 1;
  const int32_t first = gemm->panel[begin].first_vector;
  while (end < gemm->panels &&
         packed_bytes(gemm, gemm->panel[end].first_vector + gemm->panel[end].vectors - first) <= kChunkBytes) {
    end++;
  }
  return end;
}

static int64_t chunk_vectors(const Gemm* gemm, int32_t begin, int32_t end) {
  return gemm->panel[end - 1].first_vector + gemm->panel[end - 1].vectors - gemm->panel[begin].first_vector;
}

static size_t largest_chunk_bytes(const Gemm* gemm) {
  size_t largest = 0;
  for (int32_t begin = 0, end; begin < gemm->panels; begin = end) {
    end = chunk_end(gemm, begin);
    const size_t bytes = packed_bytes(gemm, chunk_vectors(gemm, begin, end));
    if (bytes > largest) largest = bytes;
  }
  return largest;
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

static Layout layout_of(const Gemm* gemm) {
  Layout layout = {0};
  layout.multiplication = fbs_reserve(&layout.size, fbs_multiplication_workspace_size(&gemm->shape));
  layout.stretches = fbs_reserve(&layout.size, sizeof(FbsStretch) * (size_t)gemm->shape.out_active);
  layout.first_stretch = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(gemm->vectors + 1));
  layout.packed = fbs_reserve(&layout.size, largest_chunk_bytes(gemm));
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
  gemm->vectors = s->out_active / kernels->lanes + (s->out_active % kernels->lanes != 0);
  gemm->panel = malloc(sizeof *gemm->panel * (size_t)gemm->vectors);
  gemm->offsets = fbs_find_offsets(s);
  if (gemm->panel == NULL || gemm->offsets == NULL) {
    destroy(gemm);
    return NULL;
  }
  gemm->panels = fbs_divide_into_panels(gemm->vectors, gemm->panel);
  if (s->in_active == s->in_channels && s->out_active == s->out_channels && !pack_all(gemm)) {
    destroy(gemm);
    return NULL;
  }
  gemm->layout = layout_of(gemm);
  return gemm;
}

static size_t workspace_size(const void* plan, int32_t threads) {
  (void)threads;
  const Gemm* gemm = plan;
  return gemm->layout.size;
}

static void run(const void* plan, FbsThreads* threads, const float* x, const int32_t* in_indices, const float* g,
                const int32_t* winners, float* y, void* workspace) {
  const Gemm* gemm = plan;
  const Layout* layout = &gemm->layout;
  char* memory = workspace;
  const FbsMultiplication multiplication = fbs_multiplication_of(&gemm->shape, gemm->offsets, gemm->weights.bias, x, g,
                                                                 winners, y, memory + layout->multiplication);
  if (gemm->packed != NULL && in_indices == NULL) {
    fbs_multiply_panels(&multiplication, gemm->kernels, threads, gemm->panel, gemm->panels, gemm->packed);
    return;
  }
  PackTask pack = pack_task(gemm, in_indices, winners, (FbsStretch*)(memory + layout->stretches),
                            (int32_t*)(memory + layout->first_stretch), (float*)(memory + layout->packed));
  for (int32_t begin = 0, end; begin < gemm->panels; begin = end) {
    end = chunk_end(gemm, begin);
    pack.panels = gemm->panel + begin;
    pack.count = end - begin;
    fbs_threads_run(threads, pack_share, &pack);
    fbs_multiply_panels(&multiplication, gemm->kernels, threads, pack.panels, pack.count, pack.packed);
  }
}

const FbsDriver fbs_gemm = {supports, create, destroy, workspace_size, run};
