#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static int always(void) { return 1; }

static int has_avx2(void) {
#if defined(__x86_64__)
  __builtin_cpu_init(); /* looks at what the operating system saves, too */
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 0;
#endif
}

static int has_avxvnni(void) {
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
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

const FbsIsa fbs_isas[kFbsIsas] = {
    {kFbsPathAvx512, has_avx512vnni, &fbs_kernels_avx512, &fbs_int8_kernels_avx512vnni},
    {kFbsPathAvx512, has_avx512, &fbs_kernels_avx512, NULL},
    {kFbsPathAvx2, has_avxvnni, &fbs_kernels_avx2, &fbs_int8_kernels_avxvnni},
    {kFbsPathAvx2, has_avx2, &fbs_kernels_avx2, &fbs_int8_kernels_avx2},
    {kFbsPathNeon, has_neondot, &fbs_kernels_neon, &fbs_int8_kernels_neondot},
    {kFbsPathNeon, always, &fbs_kernels_neon, &fbs_int8_kernels_neon}, /* part of every AArch64 */
    {kFbsPathPlain, always, &fbs_kernels_plain, &fbs_int8_kernels_plain},
};

static const char* const names[kFbsPaths] = {
    [kFbsPathAuto] = "auto", [kFbsPathReference] = "reference", [kFbsPathPlain] = "plain",
    [kFbsPathAvx2] = "avx2", [kFbsPathAvx512] = "avx512",       [kFbsPathNeon] = "neon",
};

int fbs_isa_available(const FbsIsa* isa) { return *isa->kernels != NULL && isa->has(); }

/* The first available one of a path, or of all for kFbsPathAuto; kFbsIsas where there is none. */
static int32_t first_isa(FbsPath path) {
  int32_t i = 0;
  while (i < kFbsIsas && !((path == kFbsPathAuto || path == fbs_isas[i].path) && fbs_isa_available(&fbs_isas[i]))) i++;
  return i;
}

int fbs_path_available(FbsPath path) { return path == kFbsPathReference || first_isa(path) < kFbsIsas; }

const char* fbs_path_name(FbsPath path) { return (unsigned)path < kFbsPaths ? names[path] : "unknown"; }

const FbsKernels* fbs_select_kernels(FbsPath path) {
  const int32_t i = first_isa(path);
  return i < kFbsIsas ? *fbs_isas[i].kernels : NULL;
}

const FbsInt8Kernels* fbs_select_int8_kernels(FbsPath path) {
  for (int32_t i = first_isa(path); i < kFbsIsas; i++) {
    const FbsIsa* isa = &fbs_isas[i];
    if (fbs_isa_available(isa) && isa->int8_kernels != NULL && *isa->int8_kernels != NULL) return *isa->int8_kernels;
  }
  return NULL;
}
