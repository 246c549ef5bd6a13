/* The inner loops of the int8 convolution, which exist once for each instruction set. Those that they share are in
 * kernels/int8_template.h.
 *
 * A window of the quantised image is some runs of neighbouring bytes, each of which is cut into quads of 4, the last
 * one filled up with weights of 0. A quad of four rows of weights is packed with the 4 weights of an output channel
 * side by side, as the instructions that multiply and add four bytes want them.
 */
#ifndef FBS_CORE_KERNELS_INT8_H_
#define FBS_CORE_KERNELS_INT8_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

enum {
  kFbsInt8MaxVectors = 4, /* vectors of output channels in the widest tile */
  kFbsInt8MaxPixels = 12, /* windows in the tallest tile */
  kFbsInt8Spare = 64,     /* bytes that can be read beyond a row of weights, and beyond the image */
};

/* Packing copies rows[4 * quad + j][winner of the lane] to packed[panel][quad][vector][lane][j]. */
typedef struct {
  const int8_t* const* rows; /* [4 * quads] */
  int64_t quads;
  int fetch;                    /* whether to fetch rows ahead */
  const FbsStretch* stretches;  /* of at most FbsInt8Kernels.stretch columns */
  const int32_t* first_stretch; /* of each packed vector, and one entry more for the end */
} FbsInt8Packing;

/* y[pixel][channel] = act(gate[channel] * (scale[channel] * sum + bias[channel])),
 * sum = start[channel] + sum_{run, i} x[window of the pixel + runs[run] + i] * packed[...]
 *
 * With max_pool, a pixel of y is the largest of four, whose windows are those of 2x2 neighbours. Of values some of
 * which are NaN it may be any, as in XNNPACK's MAX_POOL_2D; it is NaN where all four are. */
typedef struct {
  const uint8_t* x;
  float* y;
  int32_t pixels, out_width, out_active; /* of y */
  int max_pool;
  int64_t pixel_step, row_step; /* from a window to the next one, and to the one below */
  const int32_t* runs;          /* where in a window they begin */
  int32_t run_count, run_quads; /* quads of each run */
  const int32_t* start;         /* of the winners, padded to whole vectors, as the next three */
  const float *scale, *bias, *gate;
  float low, high; /* the activation: min(max(v, low), high) */
} FbsInt8Multiplication;

typedef struct {
  const char* name;
  int32_t lanes;
  int32_t stretch;                             /* columns of weights that packing reads at once */
  int32_t vectors;                             /* in the widest tile */
  int32_t tile_pixels[kFbsInt8MaxVectors + 1]; /* most windows in a tile that is this many vectors wide */
  int32_t origin; /* subtracted from the bytes of the image: 0, or 128 where they are multiplied as signed ones */

  /* q[i] = fbs_quantise(x[i], inverse, zero) - origin for i = 0..n-1; nothing else is written. */
  void (*quantise)(const float* x, int64_t n, float inverse, int32_t zero, uint8_t* q);

  /* Quads begin..end for all of the panels. `packed` begins with the first of these, and has 64-byte alignment. The
   * packed weights of each lane are added to sums[vector][lane], unless that is NULL. */
  void (*pack)(const FbsInt8Packing* packing, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
               int8_t* packed, int32_t* sums);

  /* Tiles begin..end of the `tiles` nearly equal ones that the pixels of y are cut into, for the channels of one
   * panel. */
  void (*multiply)(const FbsInt8Multiplication* multiplication, const FbsPanel* panel, const int8_t* packed,
                   int32_t tiles, int32_t begin, int32_t end);
} FbsInt8Kernels;

/* Windows that a pixel of y takes. */
static inline int32_t fbs_int8_windows(int max_pool) { return max_pool ? 4 : 1; }

/* NULL where the instruction set is not one of this architecture's, or not known to the compiler. */
extern const FbsInt8Kernels* const fbs_int8_kernels_plain;
extern const FbsInt8Kernels* const fbs_int8_kernels_avx2;
extern const FbsInt8Kernels* const fbs_int8_kernels_avxvnni;    /* AVX2 and AVX-VNNI */
extern const FbsInt8Kernels* const fbs_int8_kernels_avx512vnni; /* AVX-512 with VNNI and VBMI */
extern const FbsInt8Kernels* const fbs_int8_kernels_neon;
extern const FbsInt8Kernels* const fbs_int8_kernels_neondot; /* NEON and SDOT */

#endif
