#include "select.h"

const FbsFloatDriver* fbs_driver_of(FbsMethod method) {
  static const FbsFloatDriver* const drivers[kFbsMethods] = {
      [kFbsMethodGemm] = &fbs_gemm,           [kFbsMethodInPlace] = &fbs_in_place,
      [kFbsMethodGrouped] = &fbs_grouped,     [kFbsMethodWinograd2] = &fbs_winograd2,
      [kFbsMethodWinograd4] = &fbs_winograd4,
  };
  return (unsigned)method < kFbsMethods ? drivers[method] : NULL;
}

static int supports(FbsMethod method, const FbsConv2dShape* shape, const FbsKernels* kernels) {
  const FbsFloatDriver* driver = fbs_driver_of(method);
  return driver != NULL && driver->supports(shape, kernels);
}

/* Whether weights in place are worth a second copy of them, by what was measured on Zen 5 for AVX-512 and AVX2. Where
 * all channels are active they are packed once and for all, which is fastest everywhere. */
static FbsMethod select_in_place(const FbsConv2dShape* s, const FbsKernels* kernels) {
  if (s->in_active == s->in_channels && s->out_active == s->out_channels) return kFbsMethodGemm;
  const int64_t pixels = (int64_t)s->out_height * s->out_width;
  const int64_t rows = (int64_t)s->kernel_height * s->kernel_width * s->in_active;
  /* 1.05 times as fast as packing at 14x14, 1.5 times at 7x7, no faster beyond 28x28. */
  if (pixels <= 28 * 28 && supports(kFbsMethodGrouped, s, kernels)) return kFbsMethodGrouped;
  /* Packing weighs the more, the fewer pixels share it and the wider the vectors that share the multiplication. With
   * AVX-512 this is 3x3 with as many pixels as active input channels, where the two methods are equal; at 7x7x512 this
   * one is 1.5 times as fast, with AVX2 1.1 times. Not measured with vectors of 4. */
  const int pays = kernels->lanes >= 8 && rows * kernels->lanes >= 144 * pixels;
  if (pays && supports(kFbsMethodInPlace, s, kernels)) return kFbsMethodInPlace;
  return kFbsMethodGemm;
}

/* What gemm and Winograd cost, in multiplications for each pair of channels: those of all pixels or tiles, and of so
 * many more, which is what packing or transforming a filter costs. That waits for memory, so it is worth more
 * multiplications to wide vectors. Fitted to 112 layers, 6x6x128 to 224x224x64 at densities of 0.3 to 1, on Zen 5: with
 * AVX-512 and with AVX2, the choice is more than 10 % slower than the best of the three for two of them, and 1 % on
 * average. Not measured with vectors of 4. */
enum { kPackingPixels = 3, kTransformTiles = 5, kWideTransformTiles = 6 };

/* Where x has fewer channels, transforming the inputs and the products costs more than Winograd saves. */
enum { kLeastDepth = 5 };

/* On maps of fewer pixels, weights in place (or packed once and for all) were faster than Winograd. */
enum { kLeastPixels = 8 * 8 };

static int64_t gemm_cost(const FbsConv2dShape* s) {
  return 9 * ((int64_t)s->out_height * s->out_width + kPackingPixels);
}

static int64_t winograd_cost(const FbsConv2dShape* s, const FbsKernels* kernels, int32_t m) {
  const int64_t tiles = (int64_t)((s->out_height + m - 1) / m) * ((s->out_width + m - 1) / m);
  return (m + 2) * (m + 2) * (tiles + (kernels->lanes > 8 ? kWideTransformTiles : kTransformTiles));
}

/* The faster of the Winograd tiles up to `largest` where one is faster than gemm, else kFbsMethodGemm. */
static FbsMethod select_winograd(const FbsConv2dShape* s, const FbsKernels* kernels, int32_t largest) {
  static const struct {
    int32_t m;
    FbsMethod method;
  } tiles[] = {{2, kFbsMethodWinograd2}, {4, kFbsMethodWinograd4}};
  FbsMethod best = kFbsMethodGemm;
  if ((int64_t)s->out_height * s->out_width < kLeastPixels || s->in_active < kLeastDepth) return best;
  int64_t least = gemm_cost(s);
  for (size_t i = 0; i < sizeof tiles / sizeof tiles[0]; i++) {
    const int64_t cost = winograd_cost(s, kernels, tiles[i].m);
    if (tiles[i].m > largest || cost >= least || !supports(tiles[i].method, s, kernels)) continue;
    best = tiles[i].method;
    least = cost;
  }
  return best;
}

FbsMethod fbs_select_method(const FbsConv2dShape* shape, const FbsKernels* kernels, const FbsConv2dOptions* options) {
  if (options->method == kFbsMethodAuto) {
    const FbsMethod winograd = select_winograd(shape, kernels, options->winograd);
    return winograd != kFbsMethodGemm ? winograd : select_in_place(shape, kernels);
  }
  return supports(options->method, shape, kernels) ? options->method : kFbsMethodGemm;
}

const char* fbs_method_name(FbsMethod method) {
  static const char* const names[kFbsMethods] = {"auto", "gemm", "inplace", "grouped", "winograd2", "winograd4"};
  return (unsigned)method < kFbsMethods ? names[method] : "unknown";
}
