/* The inner loops, which exist once for each instruction set. Their one source is kernels/template.h. */
#ifndef FBS_CORE_KERNELS_H_
#define FBS_CORE_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

enum {
  kFbsMaxLanes = 16,  /* floats in the widest vector of any instruction set */
  kFbsMaxVectors = 3, /* vectors of output channels in the widest tile */
  kFbsMaxPixels = 12, /* output pixels in the tallest tile */

  /* How many rows of weights in place are fetched ahead, since they lie too scattered for the hardware to foresee: 3x3
   * at 7x7x512 gains 3 to 7 % where they come from L3, with 8 as with 32, and 20 % from memory, with 32 (Zen 5). */
  kFbsRowsAhead = 32,

  kFbsMaxPixelVectors = 4, /* the same where a vector holds pixels: vectors of them, */
  kFbsMaxTileChannels = 8, /* output channels, */
  kFbsMaxOddPixels = 2,    /* and pixels beside the vectors */
};

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* T(pixels, vectors) for all tiles of up to so many pixels. */
#define TILES_4(T, vectors) T(1, vectors) T(2, vectors) T(3, vectors) T(4, vectors)
#define TILES_6(T, vectors) TILES_4(T, vectors) T(5, vectors) T(6, vectors)
#define TILES_8(T, vectors) TILES_6(T, vectors) T(7, vectors) T(8, vectors)
#define TILES_12(T, vectors) TILES_8(T, vectors) T(9, vectors) T(10, vectors) T(11, vectors) T(12, vectors)

/* A stretch of `lanes` neighbouring weight columns, and where each lane of a packed vector finds its column in it:
 * select[lane] is the distance from `column`, or -1 when another stretch holds that lane's column. */
typedef struct {
  int32_t select[kFbsMaxLanes];
  int32_t column;
} FbsStretch;

/* From the smallest to the largest of some values and 0. */
typedef struct {
  float low, high;
} FbsRange;

/* Output channels that are multiplied together: `vectors` packed vectors. */
typedef struct {
  int32_t first_vector, vectors;
} FbsPanel;

/* Packing copies weights[in_indices[i]][t][winners] to packed[panel][t][i][vectors * lanes]. */
typedef struct {
  const float* weights;      /* [in_channels][taps][out_channels] */
  const int32_t* in_indices; /* NULL when all rows are used */
  int32_t taps, depth, out_channels;
  const FbsStretch* stretches;
  const int32_t* first_stretch; /* of each packed vector, and one entry more for the end */
} FbsPacking;

/* The multiplication of panels with windows of the input, which are read in place: tap t of an output pixel is
 * the input pixel at x + offsets[t][pixel], or the zeros where that offset is negative (padding). */
typedef struct {
  const float* x;
  const float* zeros; /* [depth] */
  float* y;
  int32_t pixels, taps, depth, out_active;
  const int32_t* offsets; /* [taps][pixels] */
  const float* gate;      /* g of the winners, padded to whole vectors */
  const float* bias;      /* of the winners, padded to whole vectors */
  float low, high;        /* the activation: min(max(v, low), high) */

  /* Weights in place, NULL with packed ones: those of each vector of output channels, whose rows of `lanes` for each
   * tap and active input channel are at rows[taps * depth]; kFbsRowsAhead entries follow that are only fetched. */
  const float* const* groups;
  const int32_t* rows;
} FbsMultiplication;

/* Output pixels that are multiplied together where a vector holds neighbouring pixels: `vectors` vectors, of which
 * lanes beyond the last pixel of the image are computed for nothing, and then `odd_pixels` single ones. */
typedef struct {
  const FbsMultiplication* all;
  int64_t first_pixel;
  int32_t vectors, odd_pixels;
  const int32_t* columns; /* [taps * depth]: where the weights of each tap and input channel are in a row of them */
  float* windows;         /* [taps * depth][vectors * lanes] */
  float* odd_windows;     /* [taps * depth][odd_pixels] */
  float* sums;            /* [out_active, padded][vectors * lanes] */
} FbsPixelTile;

/* What the transforms of a Winograd convolution have to know of the layer and the image. */
typedef struct {
  const FbsMultiplication* all;
  int32_t in_height, in_width, pad_top, pad_left, out_height, out_width;
  int32_t tiles_across;
} FbsWinogradImage;

/* Of F(2x2, 3x3) or F(4x4, 3x3); see kernels/winograd_template.h. `plane` is the distance from one point to the next.
 */
typedef struct {
  /* Rows begin..end of a panel: packed[point][i][vectors * lanes]. out_channels >= lanes. */
  void (*pack_filters)(const FbsPacking* packing, const FbsPanel* panel, int64_t begin, int64_t end, int64_t plane,
                       float* packed);
  /* windows[point][tile][depth, rounded up to whole vectors] of tiles begin..end */
  void (*transform_input)(const FbsWinogradImage* image, int64_t begin, int64_t end, int64_t plane, float* windows);
  /* The outputs of tiles begin..end in the channels of a panel, from products[point][tile][vectors * lanes]. */
  void (*transform_output)(const FbsWinogradImage* image, const FbsPanel* panel, const float* products, int64_t begin,
                           int64_t end, int64_t plane);
} FbsWinogradKernels;

/* One image's part of a sum: all channels of each pixel, or those that `indices` names. */
typedef struct {
  const float* x;               /* [pixels][active] */
  int32_t active;               /* values of a pixel */
  const int32_t* indices;       /* NULL: all channels in order */
  const FbsStretch* stretches;  /* where a vector of channels finds its values, as columns of a pixel */
  const int32_t* first_stretch; /* of each vector of channels, and one entry more for the end */
} FbsAddend;

/* y[pixel][channel] = act(the sum of the addends) */
typedef struct {
  const FbsAddend* addends;
  int32_t count, channels;
  float* y;
  float low, high; /* as above */
} FbsAddition;

/* One image's depthwise convolution: y[pixel][j] = act(bias[j] + sum_tap x[pixel, tap][j] * weights[tap][j]) */
typedef struct {
  const float* x;       /* [in_height][in_width][active] */
  float* y;             /* [out_height][out_width][active] */
  const float* weights; /* [taps][padded]: those of the active channels, to whole vectors */
  const float* bias;    /* [padded] */
  int32_t in_height, in_width, active, padded;
  int32_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width;
  int32_t pad_top, pad_left, out_height, out_width;
  float low, high; /* as above */
} FbsDepthwise;

typedef struct {
  const char* name;
  int32_t lanes;
  int32_t tile_pixels[kFbsMaxVectors + 1]; /* most output pixels in a tile that is this many vectors wide */

  /* Rows begin..end of the taps * depth packed rows, in this order: it writes one stream for each panel, where the
   * weights' own order writes one for each tap as well, which fall into the same cache sets at a depth of 64 (AVX2 on
   * Zen 5: 2.6 times slower). out_channels >= lanes. `packed` begins with the first of the panels. */
  void (*pack)(const FbsPacking* packing, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
               float* packed);

  /* Tiles begin..end of the `tiles` nearly equal ones that the output pixels are cut into, for the channels of one
   * panel. `packed` is NULL with weights in place. */
  void (*multiply)(const FbsMultiplication* multiplication, const FbsPanel* panel, const float* packed, int32_t tiles,
                   int32_t begin, int32_t end);

  /* The sums alone: as multiply with gate 1, bias 0 and no activation, out_active a multiple of lanes. */
  void (*multiply_sums)(const FbsMultiplication* multiplication, const FbsPanel* panel, const float* packed,
                        int32_t tiles, int32_t begin, int32_t end);

  FbsWinogradKernels winograd2, winograd4;

  /* Output channels that are multiplied at once with this many vectors of pixels, at most `lanes`; 0: no such tile. */
  int32_t pixel_tile_channels[kFbsMaxPixelVectors + 1];

  /* Fills a tile's windows, for blocks begin..end of the taps * ceil(depth / lanes) blocks that each tap's input
   * channels are cut into. */
  void (*copy_windows)(const FbsPixelTile* tile, int64_t begin, int64_t end);

  /* Multiplies a tile's windows with the rows of weights of as many output channels as pixel_tile_channels says, also
   * beyond out_active, which are not written: sums are padded for them, and so are `gate` and `bias`. */
  void (*multiply_in_place)(const FbsPixelTile* tile, const float* const* weights, int32_t channel);

  /* Writes the outputs of a tile's sums, for blocks begin..end of `lanes` channels. */
  void (*activate_pixels)(const FbsPixelTile* tile, int64_t begin, int64_t end);

  /* sums[c] = sum over pixels of |x[pixel][c]| */
  void (*saliency)(const float* x, int32_t pixels, int32_t channels, float* sums);

  /* The same, and the range of x, in which NaN does not count. */
  void (*saliency_and_range)(const float* x, int32_t pixels, int32_t channels, float* sums, FbsRange* range);

  /* g[o] = sum_i s[i] * gate_kernel[in_indices[i] * out_channels + o] for o = begin..end */
  void (*predict)(const float* s, const int32_t* in_indices, int32_t depth, const float* gate_kernel,
                  int32_t out_channels, int32_t begin, int32_t end, float* g);

  /* The `count` channels with the largest g, as whole groups of group_size channels compared by their mean, in
   * ascending order. The lower index wins a tie; NaN is less than any number. No g is negative. keys: room for one per
   * group. */
  void (*choose_winners)(const float* g, int32_t channels, int32_t group_size, int32_t count, int32_t* keys,
                         int32_t* winners);

  /* Pixels begin..end of a sum. Of a compact addend it reads a whole vector from each stretch's column on, so the image
   * must hold so much from the last pixel's. */
  void (*add)(const FbsAddition* addition, int64_t begin, int64_t end);

  /* packed[t][j] = weights[indices[j]][t], with `padded` lanes in a row: whole vectors. */
  void (*pack_depthwise)(const float* weights, const int32_t* indices, int32_t taps, int32_t active, int32_t padded,
                         float* packed);

  /* Output rows begin..end. */
  void (*depthwise)(const FbsDepthwise* all, int64_t begin, int64_t end);
} FbsKernels;

/* NULL where the instruction set is not one of this architecture's. */
extern const FbsKernels* const fbs_kernels_plain;
extern const FbsKernels* const fbs_kernels_avx2;
extern const FbsKernels* const fbs_kernels_avx512;
extern const FbsKernels* const fbs_kernels_neon;

#endif
