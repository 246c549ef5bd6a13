#include "gate.h"

#include "workspace.h"

/* Pixels that are summed in one go, and more where they hold few values. The sums do not depend on the number of
 * threads, since the blocks do not, and sums of sums stay accurate on large maps. */
enum { kBlockPixels = 64, kBlockValues = 2048 };

static int32_t block_pixels(const FbsConv2dShape* s) {
  const int32_t pixels = kBlockValues / s->in_active;
  return pixels > kBlockPixels ? pixels : kBlockPixels;
}

/* Weights of the predictor from which threads share it: reading so many takes 400 ns, several rounds of the threads. */
enum { kParallelPredictor = 1 << 14 };

static int32_t blocks_of(const FbsConv2dShape* s) {
  const int64_t size = block_pixels(s);
  return (int32_t)(((int64_t)s->in_height * s->in_width + size - 1) / size);
}

typedef struct {
  size_t sums, ranges, saliency, keys, size;
} Layout;

static Layout layout_of(const FbsConv2dShape* s) {
  Layout layout = {0};
  layout.sums = fbs_reserve(&layout.size, sizeof(float) * (size_t)blocks_of(s) * (size_t)s->in_active);
  layout.ranges = fbs_reserve(&layout.size, sizeof(FbsRange) * (size_t)blocks_of(s));
  layout.saliency = fbs_reserve(&layout.size, sizeof(float) * (size_t)s->in_active);
  layout.keys = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(s->out_channels / s->group_size));
  return layout;
}

size_t fbs_gate_workspace_size(const FbsConv2dShape* shape) { return layout_of(shape).size; }

typedef struct {
  const FbsConv2dShape* shape;
  const FbsKernels* kernels;
  const float* x;
  float* sums;      /* [blocks][in_active] */
  FbsRange* ranges; /* [blocks], or NULL */
} SaliencyTask;

static void sum_blocks(void* context, int32_t thread, int32_t count) {
  const SaliencyTask* task = context;
  const int32_t blocks = blocks_of(task->shape), pixels = task->shape->in_height * task->shape->in_width;
  const int32_t most = block_pixels(task->shape);
  const int64_t channels = task->shape->in_active;
  for (int64_t i = fbs_share(blocks, thread, count); i < fbs_share(blocks, thread + 1, count); i++) {
    const int32_t first = (int32_t)i * most;
    const int32_t size = pixels - first < most ? pixels - first : most;
    const float* x = task->x + first * channels;
    float* sums = task->sums + i * channels;
    if (task->ranges == NULL) {
      task->kernels->saliency(x, size, (int32_t)channels, sums);
    } else {
      task->kernels->saliency_and_range(x, size, (int32_t)channels, sums, &task->ranges[i]);
    }
  }
}

static float relu(float value) { return value < 0 ? 0 : value; } /* NaN stays */

typedef struct {
  const FbsConv2dShape* shape;
  const FbsConv2dWeights* weights;
  const FbsKernels* kernels;
  const int32_t* in_indices;
  const float* saliency;
  float* g;
} PredictTask;

static void predict_share(void* context, int32_t thread, int32_t count) {
  const PredictTask* task = context;
  const int32_t channels = task->shape->out_channels;
  const int32_t begin = (int32_t)fbs_share(channels, thread, count);
  const int32_t end = (int32_t)fbs_share(channels, thread + 1, count);
  task->kernels->predict(task->saliency, task->in_indices, task->shape->in_active, task->weights->gate_kernel, channels,
                         begin, end, task->g);
  for (int32_t o = begin; o < end; o++) task->g[o] = relu(task->g[o] + task->weights->gate_bias[o]);
}

/* Sums |x| by blocks, and finds the range of x unless `range` is NULL. */
static void scan(const FbsConv2dShape* shape, const FbsKernels* kernels, FbsThreads* threads, const float* x,
                 float* sums, FbsRange* ranges, FbsRange* range) {
  SaliencyTask task = {shape, kernels, x, sums, range == NULL ? NULL : ranges};
  fbs_threads_run(threads, sum_blocks, &task);
  if (range == NULL) return;
  *range = (FbsRange){0, 0};
  for (int64_t i = 0; i < blocks_of(shape); i++) {
    range->low = ranges[i].low < range->low ? ranges[i].low : range->low;
    range->high = ranges[i].high > range->high ? ranges[i].high : range->high;
  }
}

/* s, of the sums of blocks. */
static void average(const FbsConv2dShape* shape, const float* sums, float* saliency) {
  const int32_t blocks = blocks_of(shape), channels = shape->in_active;
  const float pixels = (float)shape->in_height * (float)shape->in_width;
  for (int32_t c = 0; c < channels; c++) saliency[c] = 0;
  for (int64_t i = 0; i < blocks; i++) {
    for (int32_t c = 0; c < channels; c++) saliency[c] += sums[i * channels + c];
  }
  for (int32_t c = 0; c < channels; c++) saliency[c] /= pixels;
}

void fbs_gate_run(const FbsConv2dShape* shape, const FbsConv2dWeights* weights, const FbsKernels* kernels,
                  FbsThreads* threads, const float* x, const int32_t* in_indices, const float* given, float* g,
                  int32_t* winners, FbsRange* range, void* workspace) {
  const Layout layout = layout_of(shape);
  float* sums = (float*)((char*)workspace + layout.sums);
  float* saliency = (float*)((char*)workspace + layout.saliency);
  int32_t* keys = (int32_t*)((char*)workspace + layout.keys);

  if (given == NULL || range != NULL) {
    scan(shape, kernels, threads, x, sums, (FbsRange*)((char*)workspace + layout.ranges), range);
  }
  PredictTask predict = {shape, weights, kernels, in_indices, saliency, g};
  if (given != NULL) {
    for (int32_t o = 0; o < shape->out_channels; o++) g[o] = relu(given[o]);
  } else {
    average(shape, sums, saliency);
    if ((int64_t)shape->in_active * shape->out_channels < kParallelPredictor) {
      predict_share(&predict, 0, 1);
    } else {
      fbs_threads_run(threads, predict_share, &predict);
    }
  }
  kernels->choose_winners(g, shape->out_channels, shape->group_size, shape->out_active, keys, winners);
}
