#include "select.h"

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
  static const FbsPath fastest_first[] = {kFbsPathAvx512, kFbsPathAvx2, kFbsPathNeon};
  for (size_t i = 0; i < sizeof fastest_first / sizeof fastest_first[0]; i++) {
    if (fbs_path_available(fastest_first[i])) return fbs_select_kernels(fastest_first[i]);
  }
  return fbs_kernels_plain;
}

const FbsDriver* fbs_driver_of(FbsMethod method) {
  switch (method) {
    case kFbsMethodGemm:
      return &fbs_gemm;
    case kFbsMethodInPlace:
      return &fbs_in_place;
    case kFbsMethodGrouped:
      return &fbs_grouped;
    case kFbsMethodAuto:
    case kFbsMethodWinograd2:
    case kFbsMethodWinograd4:
      break;
  }
  return NULL;
}

static int supports(FbsMethod method, const FbsConv2dShape* shape, const FbsKernels* kernels) {
  const FbsDriver* driver = fbs_driver_of(method);
  return driver != NULL && driver->supports(shape, kernels);
}

FbsMethod fbs_select_method(const FbsConv2dShape* shape, const FbsKernels* kernels, const FbsConv2dOptions* options) {
  if (options->method != kFbsMethodAuto && supports(options->method, shape, kernels)) return options->method;
  return kFbsMethodGemm;
}

const char* fbs_method_name(FbsMethod method) {
  static const char* const names[] = {"auto", "gemm", "inplace", "grouped", "winograd2", "winograd4"};
  return (unsigned)method < sizeof names / sizeof names[0] ? names[method] : "unknown";
}

const char* fbs_path_name(FbsPath path) {
  static const char* const names[] = {"auto", "reference", "plain", "avx2", "avx512", "neon"};
  return (unsigned)path < sizeof names / sizeof names[0] ? names[path] : "unknown";
}
