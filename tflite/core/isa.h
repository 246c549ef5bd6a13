/* The instruction sets that there are kernels for. */
#ifndef FBS_CORE_ISA_H_
#define FBS_CORE_ISA_H_

#include "kernels.h"
#include "kernels_int8.h"
#include "types.h"

/* The kernels of one, where the compiler and this architecture have them: else the pointers they are at are NULL. */
typedef struct {
  FbsPath path;     /* the option that chooses it */
  int (*has)(void); /* whether this CPU has it */
  const FbsKernels* const* kernels;
  const FbsInt8Kernels* const* int8_kernels; /* NULL: none of its own */
} FbsIsa;

enum { kFbsIsas = 7 };
extern const FbsIsa fbs_isas[kFbsIsas]; /* the fastest first */

int fbs_isa_available(const FbsIsa* isa);

/* The kernels of an available path, of the fastest available one for kFbsPathAuto; NULL for kFbsPathReference. */
const FbsKernels* fbs_select_kernels(FbsPath path);

/* The same for the int8 convolution: the first int8 kernels of the path, or of what comes after it. */
const FbsInt8Kernels* fbs_select_int8_kernels(FbsPath path);

#endif
