#include "image_int8.h"

#include <string.h>

#include "workspace.h"

static FbsImageAxis axis_of(int64_t out, int64_t stride, int64_t kernel, int64_t dilation, int64_t pad) {
  if (kernel == 1) return (FbsImageAxis){.size = out, .pad = pad, .step = stride, .stride = 1};
  const int64_t size = (out - 1) * stride + (kernel - 1) * dilation + 1;
  return (FbsImageAxis){.size = size, .pad = pad, .step = 1, .stride = stride};
}

FbsInt8Image fbs_int8_image_of(const FbsConv2dShape* s) {
  return (FbsInt8Image){
      .rows = axis_of(s->out_height, s->stride_height, s->kernel_height, s->dilation_height, s->pad_top),
      .columns = axis_of(s->out_width, s->stride_width, s->kernel_width, s->dilation_width, s->pad_left),
      .in_height = s->in_height,
      .in_width = s->in_width,
      .depth = s->in_active};
}

int64_t fbs_int8_image_bytes(const FbsInt8Image* image, int64_t most) {
  const int64_t pixels = most / image->depth;
  if (image->rows.size > pixels / image->columns.size) return most + 1;
  return image->rows.size * image->columns.size * image->depth;
}

typedef struct {
  const FbsInt8Image* image;
  const FbsInt8Kernels* kernels;
  const float* x;
  FbsQuantisation quantisation;
  uint8_t* q;
} Task;

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

/* Rows or columns begin..end of the image come from the input, of which begin * step - pad is the first one. */
static void find_inside(const FbsImageAxis* axis, int64_t in_size, int64_t* begin, int64_t* end) {
  *begin = smaller_of(ceil_divide(axis->pad, axis->step), axis->size);
  *end = smaller_of(ceil_divide(axis->pad + in_size, axis->step), axis->size);
}

static void quantise_share(void* context, int32_t thread, int32_t count) {
  const Task* task = context;
  const FbsInt8Image* image = task->image;
  const int64_t depth = image->depth, width = image->columns.size, step = image->columns.step;
  const int padding = task->quantisation.zero - task->kernels->origin;
  int64_t first_row, last_row, first, last;
  find_inside(&image->rows, image->in_height, &first_row, &last_row);
  find_inside(&image->columns, image->in_width, &first, &last);
  const int64_t values = step == 1 ? (last - first) * depth : depth; /* of neighbouring pixels */
  const int64_t end = fbs_share(image->rows.size, thread + 1, count);
  for (int64_t row = fbs_share(image->rows.size, thread, count); row < end; row++) {
    uint8_t* q = task->q + row * width * depth;
    if (row < first_row || row >= last_row) {
      memset(q, padding, (size_t)(width * depth));
      continue;
    }
    const float* x = task->x + (row * image->rows.step - image->rows.pad) * image->in_width * depth;
    memset(q, padding, (size_t)(first * depth));
    for (int64_t column = first; column < last; column += step == 1 ? last - first : 1) {
      task->kernels->quantise(x + (column * step - image->columns.pad) * depth, values, task->quantisation.inverse,
                              task->quantisation.zero, q + column * depth);
    }
    memset(q + last * depth, padding, (size_t)((width - last) * depth));
  }
}

void fbs_quantise_image(const FbsInt8Image* image, const FbsInt8Kernels* kernels, FbsThreads* threads, const float* x,
                        FbsQuantisation quantisation, uint8_t* q) {
  Task task = {image, kernels, x, quantisation, q};
  fbs_threads_run(threads, quantise_share, &task);
  memset(q + image->rows.size * image->columns.size * image->depth, 0, kFbsInt8Spare);
}
