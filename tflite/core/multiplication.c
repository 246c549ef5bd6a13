#include "multiplication.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tiles.h"
#include "workspace.h"

size_t fbs_count_weights(const FbsConv2dShape* s) {
  return (size_t)s->out_channels * (size_t)s->in_channels * (size_t)s->kernel_height * (size_t)s->kernel_width;
}

int32_t* fbs_find_offsets(const FbsConv2dShape* s) {
  const size_t taps = (size_t)s->kernel_height * (size_t)s->kernel_width;
  int32_t* const found = malloc(sizeof *found * taps * (size_t)s->out_height * (size_t)s->out_width);
  if (found == NULL) return NULL;
  int32_t* offsets = found;
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
  return found;
}

typedef struct {
  size_t gate, bias, zeros, size;
} Layout;

/* Tiles read gate and bias by whole vectors. */
static int32_t padded_channels(const FbsConv2dShape* s) { return s->out_active + kFbsMaxLanes; }

static Layout layout_of(const FbsConv2dShape* s) {
  Layout layout = {0};
  layout.gate = fbs_reserve(&layout.size, sizeof(float) * (size_t)padded_channels(s));
  layout.bias = fbs_reserve(&layout.size, sizeof(float) * (size_t)padded_channels(s));
  layout.zeros = fbs_reserve(&layout.size, sizeof(float) * (size_t)s->in_active);
  return layout;
}

size_t fbs_multiplication_workspace_size(const FbsConv2dShape* shape) { return layout_of(shape).size; }

FbsMultiplication fbs_multiplication_of(const FbsConv2dShape* s, const int32_t* offsets, const float* bias,
                                        const FbsGatedImage* image, float* y, void* workspace) {
  const Layout layout = layout_of(s);
  char* memory = workspace;
  float* winners_gate = (float*)(memory + layout.gate);
  float* winners_bias = (float*)(memory + layout.bias);
  float* zeros = (float*)(memory + layout.zeros);
  for (int32_t c = 0; c < padded_channels(s); c++) {
    winners_gate[c] = c < s->out_active ? image->g[image->winners[c]] : 0;
    winners_bias[c] = c < s->out_active ? bias[image->winners[c]] : 0;
  }
  memset(zeros, 0, sizeof(float) * (size_t)s->in_active);
  return (FbsMultiplication){.x = image->x,
                             .zeros = zeros,
                             .y = y,
                             .pixels = s->out_height * s->out_width,
                             .taps = s->kernel_height * s->kernel_width,
                             .depth = s->in_active,
                             .out_active = s->out_active,
                             .offsets = offsets,
                             .gate = winners_gate,
                             .bias = winners_bias,
                             .low = fbs_lowest(s->activation),
                             .high = fbs_highest(s->activation)};
}

/* Panels are two vectors wide, which makes the best tile; an odd vector at the end widens the last one to three. */
int32_t fbs_divide_into_panels(int32_t vectors, FbsPanel* panels) {
  const int32_t count = vectors > 1 ? vectors / 2 : 1;
  for (int32_t i = 0; i < count; i++) panels[i] = (FbsPanel){.first_vector = 2 * i, .vectors = 2};
  panels[count - 1].vectors = vectors - panels[count - 1].first_vector;
  return count;
}

typedef struct {
  const FbsMultiplication* multiplication;
  const FbsKernels* kernels;
  const float* packed;
} Task;

static void multiply(const void* context, const FbsPanel* panel, int32_t vectors, int32_t tiles, int32_t begin,
                     int32_t end) {
  const Task* task = context;
  const FbsMultiplication* all = task->multiplication;
  const int64_t before = (int64_t)all->taps * all->depth * vectors * task->kernels->lanes;
  task->kernels->multiply(all, panel, task->packed == NULL ? NULL : task->packed + before, tiles, begin, end);
}

void fbs_multiply_panels(const FbsMultiplication* multiplication, const FbsKernels* kernels, FbsThreads* threads,
                         const FbsPanel* panels, int32_t count, const float* packed) {
  const Task task = {multiplication, kernels, packed};
  const FbsTiles tiles = {.panels = panels,
                          .count = count,
                          .pixels = multiplication->pixels,
                          .tile_pixels = kernels->tile_pixels,
                          .windows = 1,
                          .multiply = multiply,
                          .context = &task};
  fbs_multiply_tiles(&tiles, threads);
}
