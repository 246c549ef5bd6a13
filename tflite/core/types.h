/* What the parts of the core say to each other: shapes, weights, and the options that choose kernels and methods. */
#ifndef FBS_CORE_TYPES_H_
#define FBS_CORE_TYPES_H_

#include <math.h>
#include <stdint.h>

typedef enum { kFbsActivationNone, kFbsActivationRelu, kFbsActivationRelu6 } FbsActivation;

/* What an activation limits its result to. */
static inline float fbs_lowest(FbsActivation activation) { return activation == kFbsActivationNone ? -INFINITY : 0; }
static inline float fbs_highest(FbsActivation activation) { return activation == kFbsActivationRelu6 ? 6 : INFINITY; }

/* Which kernels to use. kFbsPathAuto takes the fastest this CPU has; the others force one (tests, benchmarks). */
typedef enum {
  kFbsPathAuto,
  kFbsPathReference,
  kFbsPathPlain,
  kFbsPathAvx2,
  kFbsPathAvx512,
  kFbsPathNeon,
  kFbsPaths /* how many there are */
} FbsPath;

/* How to compute the convolution. kFbsMethodAuto takes what measured fastest for the shape; the others force one where
 * it can compute the shape, and are kFbsMethodGemm where it cannot. Winograd's methods round differently (see
 * docs/kernels.md), and compute the outputs of a tile together: a value of x that is NaN, infinite or near the largest
 * float spoils all of them, where the other methods spoil those whose window holds it. */
typedef enum {
  kFbsMethodAuto,
  kFbsMethodGemm,      /* active weights packed for each image, then multiplied */
  kFbsMethodInPlace,   /* weights read in place, output pixels side by side in a vector: small maps */
  kFbsMethodGrouped,   /* weights read in place, output channels in whole groups: group_size a multiple of a vector */
  kFbsMethodWinograd2, /* F(2x2, 3x3) */
  kFbsMethodWinograd4, /* F(4x4, 3x3) */
  kFbsMethods          /* how many there are */
} FbsMethod;

typedef struct {
  FbsPath path;
  FbsMethod method;
  int32_t winograd; /* the largest Winograd tile that kFbsMethodAuto may choose: 4, 2, or 0 for none */
} FbsConv2dOptions;

#define FBS_CONV2D_DEFAULTS ((FbsConv2dOptions){kFbsPathAuto, kFbsMethodAuto, 4})

typedef struct {
  int32_t batch, in_height, in_width;
  int32_t in_channels;  /* C_in: rows of the weights */
  int32_t in_active;    /* channels that x holds; equals in_channels when x is dense */
  int32_t out_channels; /* C_out */
  int32_t out_active;   /* k, a multiple of group_size; equals out_channels at density 1 */
  int32_t group_size;   /* winners are whole groups of this many channels, by the group's mean of g */
  int32_t kernel_height, kernel_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_left; /* zeros before the first row and column */
  int32_t out_height, out_width;
  FbsActivation activation;
  int32_t max_pool; /* 1: y holds the largest of each 2x2 outputs; conv2d_int8.h only */
} FbsConv2dShape;

/* Of y, whose last row and column are left out where max_pool finds no second ones beside them. */
static inline int32_t fbs_y_height(const FbsConv2dShape* s) { return s->max_pool ? s->out_height / 2 : s->out_height; }
static inline int32_t fbs_y_width(const FbsConv2dShape* s) { return s->max_pool ? s->out_width / 2 : s->out_width; }

/* Not copied: they must outlive the plan and keep their values. */
typedef struct {
  const float* weights;     /* [in_channels][kernel_height * kernel_width][out_channels] */
  const float* bias;        /* [out_channels] */
  const float* gate_kernel; /* [in_channels][out_channels]; NULL: each run is given g */
  const float* gate_bias;   /* [out_channels]; NULL likewise */
} FbsConv2dWeights;

int fbs_path_available(FbsPath path);          /* to this CPU */
const char* fbs_path_name(FbsPath path);       /* "auto", "reference", "plain", "avx2", "avx512", "neon" */
const char* fbs_method_name(FbsMethod method); /* "auto", "gemm", "inplace", "grouped", "winograd2", "winograd4" */

#endif
