/* Where the windows of a convolution lie in its input. */
#ifndef FBS_CORE_WINDOWS_H_
#define FBS_CORE_WINDOWS_H_

#include <stdint.h>

#include "conv2d.h"

/* offsets[tap][pixel]: where each tap of each output pixel lies in the compact input of an image, in floats; -1 where
 * in the padding */
void fbs_find_offsets(const FbsConv2dShape* shape, int32_t* offsets);

#endif
