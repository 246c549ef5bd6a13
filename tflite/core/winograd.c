/* Winograd's convolution F(m x m, 3 x 3), m = 2 or 4, of stride 1 on the active channels: the output is cut into tiles
 * of m x m, whose windows overlap by two, and each of the (m + 2)^2 points of the transformed windows and filters is a
 * matrix product over the channels. The active filters are transformed while they are packed, for each image: that
 * costs no memory for weights, and little time where a filter serves many tiles. */
#include <stdlib.h>

#include "driver.h"
#include "multiplication.h"
#include "packing.h"
#include "workspace.h"

/* Transformed windows and products that are in use at the same time should stay in L2. From 128 to 512 KiB the choice
 * made less than 5 % from 14x14x256 to 224x224x64 (Zen 5). */
enum { kBlockBytes = 256 << 10 };

/* Rows of planes that follow each other in memory a multiple of 4 KiB apart would fall into the same cache sets. */
enum { kPlaneGap = 16 };

/* More workspace than this, of all threads together and of each, is left to gemm.c, which needs less. Layers of 4096
 * input channels take 7 MiB a thread. */
static const double kMostBytes = 1 << 30, kMostThreadBytes = 64 << 20;

typedef struct {
  size_t multiplication, stretches, first_stretch, packed, windows, products, size;
  int64_t blocks, windows_plane, products_plane; /* planes: floats from one point to the next */
} Layout;

typedef struct {
  FbsConv2dShape shape;
  FbsConv2dWeights weights;
  const FbsKernels* kernels;
  const FbsWinogradKernels* transforms;
  int32_t points; /* (m + 2)^2 */
  int32_t tiles_across;
  int64_t tiles;
  int32_t vectors, panels;
  FbsPanel* panel;
  int32_t row;      /* of a tile in a plane of windows: in_active, rounded up to whole vectors */
  int32_t* offsets; /* of the tiles of a block in a plane of windows */
} Winograd;

/* Whether the windows of all tiles are kept, and each panel of filters is packed, used at once and forgotten: less has
 * to be kept so where there are fewer tiles than output channels. Elsewhere the filters of all panels are kept, and
 * blocks of tiles are transformed, used at once and forgotten. */
static int keeps_windows(const Winograd* plan) { return plan->tiles < plan->shape.out_active; }

static int64_t product_floats(const Winograd* plan) { /* of one tile and the widest panel */
  return (int64_t)plan->points * plan->panel[plan->panels - 1].vectors * plan->kernels->lanes;
}

/* Tiles that are multiplied with a panel and transformed back before the next ones are. */
static int64_t block_tiles(const Winograd* plan) {
  const int64_t windows = keeps_windows(plan) ? 0 : (int64_t)plan->points * plan->row;
  const int64_t most = kBlockBytes / (int64_t)sizeof(float) / (windows + product_floats(plan));
  return most > kFbsMaxPixels ? most : kFbsMaxPixels;
}

/* Nearly equal blocks, as many for each thread. */
static int64_t blocks_of(const Winograd* plan, int32_t threads) {
  const int64_t most = block_tiles(plan), blocks = (plan->tiles + most - 1) / most;
  return (blocks + threads - 1) / threads * threads;
}

static int64_t largest_block(const Winograd* plan, int32_t threads) {
  const int64_t blocks = blocks_of(plan, threads);
  return (plan->tiles + blocks - 1) / blocks;
}

static int64_t packed_plane(const Winograd* plan, const FbsPanel* panel) {
  return (int64_t)plan->shape.in_active * panel->vectors * plan->kernels->lanes + kPlaneGap;
}

/* Every panel but the last one is as wide as the first. */
static size_t packed_bytes(const Winograd* plan, const FbsPanel* panel) {
  size_t bytes = 0;
  fbs_reserve(&bytes, sizeof(float) * (size_t)plan->points * (size_t)packed_plane(plan, panel));
  return bytes;
}

static Layout layout_of(const Winograd* plan, int32_t threads) {
  const FbsConv2dShape* s = &plan->shape;
  const size_t point_bytes = sizeof(float) * (size_t)plan->points;
  const int64_t tiles = largest_block(plan, threads);
  const int keeps = keeps_windows(plan);
  Layout layout = {.blocks = blocks_of(plan, threads),
                   .windows_plane = (keeps ? plan->tiles : tiles) * plan->row + kPlaneGap,
                   .products_plane = tiles * product_floats(plan) / plan->points + kPlaneGap};
  layout.multiplication = fbs_reserve(&layout.size, fbs_multiplication_workspace_size(s));
  layout.stretches = fbs_reserve(&layout.size, sizeof(FbsStretch) * (size_t)s->out_active);
  layout.first_stretch = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(plan->vectors + 1));
  layout.packed = layout.size;
  if (!keeps) layout.size += (size_t)(plan->panels - 1) * packed_bytes(plan, &plan->panel[0]);
  layout.size += packed_bytes(plan, &plan->panel[plan->panels - 1]); /* the largest */
  layout.windows = fbs_reserve(&layout.size, point_bytes * (size_t)(layout.windows_plane * (keeps ? 1 : threads)));
  layout.products = fbs_reserve(&layout.size, point_bytes * (size_t)(layout.products_plane * threads));
  return layout;
}

/* ---- One image ---- */

typedef struct {
  const Winograd* plan;
  const Layout* layout;
  FbsPacking packing;
  FbsWinogradImage image;
  /* What is to be done now: whether windows are transformed, and which panels, but for the last one, are packed or
   * multiplied. */
  int transforms;
  int32_t first_panel, last_panel;
  char* memory;
} Task;

static float* packed_of(const Task* task, int32_t panel) {
  const size_t before = keeps_windows(task->plan) ? 0 : (size_t)panel;
  return (float*)(task->memory + task->layout->packed + before * packed_bytes(task->plan, &task->plan->panel[0]));
}

static void pack_share(void* context, int32_t thread, int32_t count) {
  const Task* task = context;
  const int64_t depth = task->plan->shape.in_active;
  for (int32_t n = task->first_panel; n < task->last_panel; n++) {
    const FbsPanel* panel = &task->plan->panel[n];
    task->plan->transforms->pack_filters(&task->packing, panel, fbs_share(depth, thread, count),
                                         fbs_share(depth, thread + 1, count), packed_plane(task->plan, panel),
                                         packed_of(task, n));
  }
}

/* products[point][tile][channel] = windows[point][tile] @ packed[point] */
static void multiply(const Task* task, int32_t n, const float* windows, int32_t tiles, float* products) {
  const Winograd* plan = task->plan;
  const FbsPanel panel = {.first_vector = 0, .vectors = plan->panel[n].vectors};
  const float* packed = packed_of(task, n);
  const int64_t plane = packed_plane(plan, &panel);
  const int32_t most = plan->kernels->tile_pixels[panel.vectors];
  const int32_t cuts = (tiles + most - 1) / most;
  FbsMultiplication product = {.pixels = tiles,
                               .taps = 1,
                               .depth = plan->shape.in_active,
                               .out_active = panel.vectors * plan->kernels->lanes,
                               .offsets = plan->offsets};
  for (int32_t point = 0; point < plan->points; point++) {
    product.x = windows + point * task->layout->windows_plane;
    product.y = products + point * task->layout->products_plane;
    plan->kernels->multiply_sums(&product, &panel, packed + point * plane, cuts, 0, cuts);
  }
}

static void convolve_block(const Task* task, int64_t block, int32_t thread) {
  const Winograd* plan = task->plan;
  const Layout* layout = task->layout;
  const int64_t begin = plan->tiles * block / layout->blocks, end = plan->tiles * (block + 1) / layout->blocks;
  if (begin == end) return; /* there are fewer tiles than threads */
  float* windows = (float*)(task->memory + layout->windows);
  float* products = (float*)(task->memory + layout->products) + thread * plan->points * layout->products_plane;
  windows += keeps_windows(plan) ? begin * plan->row : thread * plan->points * layout->windows_plane;
  if (task->transforms) {
    plan->transforms->transform_input(&task->image, begin, end, layout->windows_plane, windows);
  }
  for (int32_t n = task->first_panel; n < task->last_panel; n++) {
    multiply(task, n, windows, (int32_t)(end - begin), products);
    plan->transforms->transform_output(&task->image, &plan->panel[n], products, begin, end, layout->products_plane);
  }
}

static void convolve_share(void* context, int32_t thread, int32_t count) {
  const int64_t blocks = ((const Task*)context)->layout->blocks;
  for (int64_t n = fbs_share(blocks, thread, count); n < fbs_share(blocks, thread + 1, count); n++) {
    convolve_block(context, n, thread);
  }
}

static void run(const void* context, FbsThreads* threads, const FbsGatedImage* image, float* y, void* workspace) {
  const Winograd* plan = context;
  const FbsConv2dShape* s = &plan->shape;
  const Layout layout = layout_of(plan, fbs_threads_count(threads));
  char* memory = workspace;
  FbsStretch* stretches = (FbsStretch*)(memory + layout.stretches);
  int32_t* first_stretch = (int32_t*)(memory + layout.first_stretch);
  const FbsMultiplication multiplication =
      fbs_multiplication_of(s, plan->offsets, plan->weights.bias, image, y, memory + layout.multiplication);
  const int32_t lanes = plan->kernels->lanes;
  fbs_find_stretches(image->winners, s->out_active, s->out_channels - lanes, lanes, lanes, stretches, first_stretch);
  Task task = {.plan = plan,
               .layout = &layout,
               .packing = {.weights = plan->weights.weights,
                           .in_indices = image->in_indices,
                           .taps = 9,
                           .depth = s->in_active,
                           .out_channels = s->out_channels,
                           .stretches = stretches,
                           .first_stretch = first_stretch},
               .image = {.all = &multiplication,
                         .in_height = s->in_height,
                         .in_width = s->in_width,
                         .pad_top = s->pad_top,
                         .pad_left = s->pad_left,
                         .out_height = s->out_height,
                         .out_width = s->out_width,
                         .tiles_across = plan->tiles_across},
               .memory = memory};
  task.transforms = 1;
  if (keeps_windows(plan)) {
    fbs_threads_run(threads, convolve_share, &task); /* the windows alone */
    task.transforms = 0;
    for (task.first_panel = 0; task.first_panel < plan->panels; task.first_panel++) {
      task.last_panel = task.first_panel + 1;
      fbs_threads_run(threads, pack_share, &task);
      fbs_threads_run(threads, convolve_share, &task);
    }
  } else {
    task.last_panel = plan->panels;
    fbs_threads_run(threads, pack_share, &task);
    fbs_threads_run(threads, convolve_share, &task);
  }
}

/* ---- The interface ---- */

/* Doubles, which do not overflow. */
static int supports(const FbsConv2dShape* s, const FbsKernels* kernels, int32_t m) {
  const double point_bytes = (double)sizeof(float) * (m + 2) * (m + 2), panel = kFbsMaxVectors * kernels->lanes;
  /* All windows where there are fewer than channels, else all filters, each row of them rounded up; then a block of a
   * thread's windows and products. */
  const double bytes = point_bytes * ((double)s->in_active + kPlaneGap) * (s->out_active + panel);
  const double thread_bytes = point_bytes * kFbsMaxPixels * (s->in_active + panel);
  return s->kernel_height == 3 && s->kernel_width == 3 && s->stride_height == 1 && s->stride_width == 1 &&
         s->dilation_height == 1 && s->dilation_width == 1 && s->out_channels >= kernels->lanes && bytes < kMostBytes &&
         thread_bytes < kMostThreadBytes;
}

static void destroy(void* context) {
  Winograd* plan = context;
  if (plan == NULL) return;
  free(plan->offsets);
  free(plan->panel);
  free(plan);
}

static void* create(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels, int32_t m) {
  Winograd* plan = calloc(1, sizeof *plan);
  if (plan == NULL) return NULL;
  plan->shape = *s;
  plan->weights = *weights;
  plan->kernels = kernels;
  plan->transforms = m == 2 ? &kernels->winograd2 : &kernels->winograd4;
  plan->points = (m + 2) * (m + 2);
  plan->tiles_across = (s->out_width + m - 1) / m;
  plan->tiles = (int64_t)plan->tiles_across * ((s->out_height + m - 1) / m);
  plan->vectors = fbs_vectors_of(s->out_active, kernels->lanes);
  plan->row = fbs_vectors_of(s->in_active, kernels->lanes) * kernels->lanes;
  plan->panel = malloc(sizeof *plan->panel * (size_t)plan->vectors);
  if (plan->panel == NULL) {
    destroy(plan);
    return NULL;
  }
  plan->panels = fbs_divide_into_panels(plan->vectors, plan->panel);
  const int64_t most = largest_block(plan, 1);
  plan->offsets = malloc(sizeof *plan->offsets * (size_t)most);
  if (plan->offsets == NULL) {
    destroy(plan);
    return NULL;
  }
  for (int64_t i = 0; i < most; i++) plan->offsets[i] = (int32_t)(i * plan->row);
  return plan;
}

static size_t workspace_size(const void* plan, int32_t threads) { return layout_of(plan, threads).size; }

static size_t plan_size(const void* context) {
  const Winograd* plan = context;
  return sizeof *plan + sizeof *plan->panel * (size_t)plan->vectors +
         sizeof *plan->offsets * (size_t)largest_block(plan, 1);
}

static int supports2(const FbsConv2dShape* s, const FbsKernels* kernels) { return supports(s, kernels, 2); }
static int supports4(const FbsConv2dShape* s, const FbsKernels* kernels) { return supports(s, kernels, 4); }

static void* create2(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels) {
  return create(s, weights, kernels, 2);
}

static void* create4(const FbsConv2dShape* s, const FbsConv2dWeights* weights, const FbsKernels* kernels) {
  return create(s, weights, kernels, 4);
}

const FbsFloatDriver fbs_winograd2 = {supports2, create2, {0, destroy, workspace_size, plan_size, run}};
const FbsFloatDriver fbs_winograd4 = {supports4, create4, {0, destroy, workspace_size, plan_size, run}};
