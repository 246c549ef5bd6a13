#include "kernels_int8.h"

const FbsInt8Kernels* const fbs_int8_kernels_neon = NULL;
