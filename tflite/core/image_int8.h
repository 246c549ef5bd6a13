/* The quantised image that windows are read from: with its padding, so that no window reaches beyond it, and without
 * the rows and columns that no window of one pixel's height or width touches. */
#ifndef FBS_CORE_IMAGE_INT8_H_
#define FBS_CORE_IMAGE_INT8_H_

#include "kernels_int8.h"
#include "quantisation.h"
#include "threads.h"
#include "types.h"

/* Its rows or columns. */
typedef struct {
  int64_t size;   /* of the image */
  int64_t pad;    /* before the input's first one */
  int64_t step;   /* every so many of the input's are kept */
  int64_t stride; /* from one window to the next */
} FbsImageAxis;

typedef struct {
  FbsImageAxis rows, columns;
  int32_t in_height, in_width, depth;
} FbsInt8Image;

FbsInt8Image fbs_int8_image_of(const FbsConv2dShape* shape);

/* Bytes, or more than `most` where there are more. */
int64_t fbs_int8_image_bytes(const FbsInt8Image* image, int64_t most);

/* Fills q, which has room for kFbsInt8Spare bytes more. */
void fbs_quantise_image(const FbsInt8Image* image, const FbsInt8Kernels* kernels, FbsThreads* threads, const float* x,
                        FbsQuantisation quantisation, uint8_t* q);

#endif
