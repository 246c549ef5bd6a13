#include "select.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static int has_avx2(void) {
#if defined(__x86_64__)
  __builtin_cpu_init(); /* looks at what the operating system saves, too */
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 0;
#endif
}

static int has_avx512(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f");
#else
  return 0;
#endif
}

int fbs_path_available(FbsPath path) {
  switch (path) {
    case kFbsPathAuto:
    case kFbsPathReference:
    case kFbsPathPlain:
      return 1;
    case kFbsPathAvx2:
      return fbs_kernels_avx2 != NULL && has_avx2();
    case kFbsPathAvx512:
      return fbs_kernels_avx512 != NULL && has_avx512();
    case kFbsPathNeon:
      return fbs_kernels_neon != NULL; /* part of every AArch64 */
  }
  return 0;
}

static FbsPath fastest_path(void) {
  static const FbsPath fastest_first[] = {kFbsPathAvx512, kFbsPathAvx2, kFbsPathNeon};
  for (size_t i = 0; i < sizeof fastest_first / sizeof fastest_first[0]; i++) {
    if (fbs_path_available(fastest_first[i])) return fastest_first[i];
  }
  return kFbsPathPlain;
}

const FbsKernels* fbs_select_kernels(FbsPath path) {
  switch (path) {
    case kFbsPathAuto:
      break;
    case kFbsPathReference:
      return NULL;
    case kFbsPathPlain:
      return fbs_kernels_plain;
    case kFbsPathAvx2:
      return fbs_kernels_avx2;
    case kFbsPathAvx512:
      return fbs_kernels_avx512;
    case kFbsPathNeon:
      return fbs_kernels_neon;
  }
  return fbs_select_kernels(fastest_path());
}

static int has_avxvnni(void) {
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
#else
  return 0;
#endif
}

static int has_avx512vnni(void) {
#if defined(__x86_64__)
  return has_avx512() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vbmi");
#else
  return 0;
#endif
}

static int has_neondot(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return 1; /* the compiler was told so */
#elif defined(__aarch64__) && defined(__linux__)
  const unsigned long asimddp = 1ul << 20; /* HWCAP_ASIMDDP, which older headers lack */
  return (getauxval(AT_HWCAP) & asimddp) != 0;
#else
  return 0;
#endif
}

const FbsInt8Kernels* fbs_select_int8_kernels(FbsPath path) {
  const FbsInt8Kernels* kernels = NULL;
  switch (path) {
    case kFbsPathAuto:
      kernels = fbs_select_int8_kernels(fastest_path());
      break;
    case kFbsPathReference:
      return NULL;
    case kFbsPathPlain:
      break;
    case kFbsPathAvx2:
      kernels = has_avxvnni() ? fbs_int8_kernels_avxvnni : NULL;
      if (kernels == NULL) kernels = fbs_int8_kernels_avx2;
      break;
    case kFbsPathAvx512:
      kernels = has_avx512vnni() ? fbs_int8_kernels_avx512vnni : fbs_select_int8_kernels(kFbsPathAvx2);
      break;
    case kFbsPathNeon:
      kernels = has_neondot() ? fbs_int8_kernels_neondot : fbs_int8_kernels_neon;
      break;
  }
  return kernels != NULL ? kernels : fbs_int8_kernels_plain;
}

const FbsFloatDriver* fbs_driver_of(FbsMethod method) {
  switch (method) {
    case kFbsMethodGemm:
      return &fbs_gemm;
    case kFbsMethodInPlace:
      return &fbs_in_place;
    case kFbsMethodGrouped:
      return &fbs_grouped;
    case kFbsMethodWinograd2:
      return &fbs_winograd2;
    case kFbsMethodWinograd4:
      return &fbs_winograd4;
    case kFbsMethodAuto:
      break;
  }
  return NULL;
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
  static const char* const names[] = {"auto", "gemm", "inplace", "grouped", "winograd2", "winograd4"};
  return (unsigned)method < sizeof names / sizeof names[0] ? names[method] : "unknown";
}

const char* fbs_path_name(FbsPath path) {
  static const char* const names[] = {"auto", "reference", "plain", "avx2", "avx512", "neon"};
  return (unsigned)path < sizeof names / sizeof names[0] ? names[path] : "unknown";
}
