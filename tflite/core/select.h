/* Which driver a plan uses: by the options, and by measurement. */
#ifndef FBS_CORE_SELECT_H_
#define FBS_CORE_SELECT_H_

#include "driver.h"
#include "kernels.h"
#include "types.h"

/* The method for a shape: the one asked for where it can compute the shape, the fastest for kFbsMethodAuto. */
FbsMethod fbs_select_method(const FbsConv2dShape* shape, const FbsKernels* kernels, const FbsConv2dOptions* options);

/* The driver of a method other than kFbsMethodAuto; NULL where there is none. */
const FbsFloatDriver* fbs_driver_of(FbsMethod method);

#endif
