#include "add.h"

#include <math.h>

#include "isa.h"
#include "kernels.h"
#include "packing.h"
#include "workspace.h"

/* Elements of y from which threads share them: writing so many takes longer than a round of the threads. */
enum { kParallelElements = 1 << 15 };

static const uint32_t kNowhere = UINT32_MAX;

typedef struct {
  size_t places, stretches[kFbsMaxAddends], first_stretch[kFbsMaxAddends], size;
} Layout;

static Layout layout_of(const FbsAddShape* s, const FbsKernels* kernels) {
  Layout layout = {0};
  if (kernels == NULL) return layout;
  const int32_t vectors = fbs_vectors_of(s->channels, kernels->lanes);
  layout.places = fbs_reserve(&layout.size, sizeof(uint32_t) * (size_t)vectors * (size_t)kernels->lanes);
  for (int32_t i = 0; i < s->addends; i++) {
    if (s->active[i] == 0) continue;
    layout.stretches[i] = fbs_reserve(&layout.size, sizeof(FbsStretch) * (size_t)s->active[i]);
    layout.first_stretch[i] = fbs_reserve(&layout.size, sizeof(int32_t) * (size_t)(vectors + 1));
  }
  return layout;
}

/* Covers the values of each vector of channels with as few stretches of `lanes` neighbouring ones as possible: one
 * where indices ascend. A stretch lies within a pixel's values if these fill a vector at all. */
static void find_stretches(const FbsAddend* addend, int32_t vectors, int32_t lanes, uint32_t* places,
                           FbsStretch* stretches, int32_t* first_stretch) {
  const int32_t active = addend->active;
  const uint32_t last_column = active > lanes ? (uint32_t)(active - lanes) : 0;
  for (int64_t c = 0; c < (int64_t)vectors * lanes; c++) places[c] = kNowhere;
  for (int32_t i = 0; i < active; i++) places[addend->indices[i]] = (uint32_t)i;
  int32_t count = 0;
  for (int32_t v = 0; v < vectors; v++, places += lanes) {
    first_stretch[v] = count;
    for (;;) {
      uint32_t least = kNowhere;
      for (int32_t lane = 0; lane < lanes; lane++) least = places[lane] < least ? places[lane] : least;
      if (least == kNowhere) break;
      FbsStretch* stretch = &stretches[count++];
      const uint32_t column = least < last_column ? least : last_column;
      stretch->column = (int32_t)column;
      for (int32_t lane = 0; lane < lanes; lane++) {
        const uint32_t distance = places[lane] - column;
        const int within = distance < (uint32_t)lanes;
        stretch->select[lane] = within ? (int32_t)distance : -1;
        places[lane] = within ? kNowhere : places[lane];
      }
    }
  }
  first_stretch[vectors] = count;
}

/* As the kernels' add, one channel after the other. */
static void add_channels(const FbsAddition* all, int64_t begin, int64_t end) {
  const int32_t channels = all->channels;
  for (int64_t pixel = begin; pixel < end; pixel++) {
    float* y = all->y + pixel * channels;
    for (int32_t c = 0; c < channels; c++) y[c] = 0;
    for (const FbsAddend* addend = all->addends; addend < all->addends + all->count; addend++) {
      const float* x = addend->x + pixel * addend->active;
      if (addend->indices == NULL) {
        for (int32_t c = 0; c < channels; c++) y[c] += x[c];
      } else {
        for (int32_t i = 0; i < addend->active; i++) y[addend->indices[i]] += x[i];
      }
    }
    for (int32_t c = 0; c < channels; c++) {
      const float value = y[c] < all->low ? all->low : y[c]; /* NaN stays */
      y[c] = value > all->high ? all->high : value;
    }
  }
}

/* The pixels of an image whose vectors end within it: a stretch of fewer values than a vector goes on into the pixels
 * after its own. */
static int64_t vector_pixels(const FbsAddShape* s, const FbsKernels* kernels) {
  if (kernels == NULL) return 0;
  int32_t least = kernels->lanes;
  for (int32_t i = 0; i < s->addends; i++) {
    if (s->active[i] > 0 && s->active[i] < least) least = s->active[i];
  }
  const int64_t pixels = s->pixels - (kernels->lanes - 1) / least;
  return pixels > 0 ? pixels : 0;
}

typedef struct {
  FbsAddition addition;
  const FbsKernels* kernels;
  int64_t pixels, vector_pixels;
} AddTask;

static void add_share(void* context, int32_t thread, int32_t count) {
  const AddTask* task = context;
  const int64_t begin = fbs_share(task->pixels, thread, count), end = fbs_share(task->pixels, thread + 1, count);
  const int64_t middle = task->vector_pixels < begin ? begin : task->vector_pixels < end ? task->vector_pixels : end;
  if (begin < middle) task->kernels->add(&task->addition, begin, middle);
  add_channels(&task->addition, middle, end);
}

static int indices_within(const FbsAddShape* s, const int32_t* const* indices) {
  for (int32_t i = 0; i < s->addends; i++) {
    for (int64_t n = 0; n < (int64_t)s->batch * s->active[i]; n++) {
      if (indices[i][n] < 0 || indices[i][n] >= s->channels) return 0;
    }
  }
  return 1;
}

size_t fbs_add_workspace_size(const FbsAddShape* shape, FbsPath path) {
  return layout_of(shape, fbs_select_kernels(path)).size;
}

const char* fbs_add_kernel_name(FbsPath path) {
  const FbsKernels* kernels = fbs_select_kernels(path);
  return kernels != NULL ? kernels->name : "plain";
}

int fbs_add_run(const FbsAddShape* s, FbsPath path, FbsThreads* threads, const float* const* x,
                const int32_t* const* indices, float* y, void* workspace) {
  if (!indices_within(s, indices)) return -1;
  const FbsKernels* kernels = fbs_select_kernels(path);
  const Layout layout = layout_of(s, kernels);
  char* memory = workspace;
  FbsAddend addends[kFbsMaxAddends];
  AddTask task = {.addition = {.addends = addends,
                               .count = s->addends,
                               .channels = s->channels,
                               .low = fbs_lowest(s->activation),
                               .high = fbs_highest(s->activation)},
                  .kernels = kernels,
                  .pixels = s->pixels,
                  .vector_pixels = vector_pixels(s, kernels)};
  for (int64_t n = 0; n < s->batch; n++) {
    for (int32_t i = 0; i < s->addends; i++) {
      const int32_t active = s->active[i], width = active == 0 ? s->channels : active;
      FbsAddend* addend = &addends[i];
      *addend = (FbsAddend){.x = x[i] + n * s->pixels * width, .active = width};
      if (active == 0) continue;
      addend->indices = indices[i] + n * active;
      if (kernels == NULL) continue;
      FbsStretch* stretches = (FbsStretch*)(memory + layout.stretches[i]);
      int32_t* first_stretch = (int32_t*)(memory + layout.first_stretch[i]);
      find_stretches(addend, fbs_vectors_of(s->channels, kernels->lanes), kernels->lanes,
                     (uint32_t*)(memory + layout.places), stretches, first_stretch);
      addend->stretches = stretches;
      addend->first_stretch = first_stretch;
    }
    task.addition.y = y + n * s->pixels * s->channels;
    if ((int64_t)s->pixels * s->channels < kParallelElements) {
      add_share(&task, 0, 1);
    } else {
      fbs_threads_run(threads, add_share, &task);
    }
  }
  return 0;
}
