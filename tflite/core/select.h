/* Which kernels and which driver a plan uses: by the options, by what this CPU has, and by measurement. */
#ifndef FBS_CORE_SELECT_H_
#define FBS_CORE_SELECT_H_

#include "conv2d.h"
#include "driver.h"
#include "kernels.h"
#include "kernels_int8.h"

/* The kernels of an available path, of the fastest available one for kFbsPathAuto; NULL for kFbsPathReference. */
const FbsKernels* fbs_select_kernels(FbsPath path);

/* The same for the int8 convolution. */
const FbsInt8Kernels* fbs_select_int8_kernels(FbsPath path);

/* The method for a shape: the one asked for where it can compute the shape, the fastest for kFbsMethodAuto. */
FbsMethod fbs_select_method(const FbsConv2dShape* shape, const FbsKernels* kernels, const FbsConv2dOptions* options);

/* The driver of a method other than kFbsMethodAuto; NULL where there is none. */
const FbsFloatDriver* fbs_driver_of(FbsMethod method);

#endif
