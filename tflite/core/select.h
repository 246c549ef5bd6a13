/* Which kernels a plan uses: by the path asked for and by what this CPU has. */
#ifndef FBS_CORE_SELECT_H_
#define FBS_CORE_SELECT_H_

#include "conv2d.h"
#include "kernels.h"

/* The kernels of an available path, of the fastest available one for kFbsPathAuto; NULL for kFbsPathReference. */
const FbsKernels* fbs_select_kernels(FbsPath path);

#endif
