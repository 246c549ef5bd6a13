/* Which kernels a plan uses: by the path asked for and by what this CPU has. */
#ifndef FBS_CORE_SELECT_H_
#define FBS_CORE_SELECT_H_

#include "conv2d.h"

/* The path itself, the fastest available one for kFbsPathAuto. */
FbsPath fbs_select_path(FbsPath path);

#endif
