/* AVX2 with AVX-VNNI, whose vpdpbusd multiplies and adds four bytes. */
#include "../kernels_int8.h"

/* Compilers that know the instruction bring, or come with, an assembler that does. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif

#define NAME "avxvnni"
#define WEIGHTS __m256i
#define LOAD_WEIGHTS(p) _mm256_load_si256((const __m256i*)(p))
#define BYTES __m256i
#define SPREAD(p) spread(p)
/* Not the intrinsic: see int8_avx512.c. */
#define DOT(sum, bytes, weights) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(weights))

/* 12 of the 16 registers hold sums. */
#define MAX_VECTORS 3
#define TILE_PIXELS {0, 8, 6, 4}
#define TILES(T) TILES_8(T, 1) TILES_6(T, 2) TILES_4(T, 3)

#include "int8_avx2.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const FbsInt8Kernels* const fbs_int8_kernels_avxvnni = &kernels;

#else

const FbsInt8Kernels* const fbs_int8_kernels_avxvnni = NULL;

#endif
