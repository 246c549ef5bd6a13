/* What the drivers that multiply windows of the input with rows of weights have in common. */
#ifndef FBS_CORE_MULTIPLICATION_H_
#define FBS_CORE_MULTIPLICATION_H_

#include "driver.h"

size_t fbs_count_weights(const FbsConv2dShape* shape);

/* offsets[taps][pixels] of FbsMultiplication. Allocated; NULL when memory runs out. */
int32_t* fbs_find_offsets(const FbsConv2dShape* shape);

/* Everything of a multiplication but the weights; gate, bias and zeros are in the workspace. */
size_t fbs_multiplication_workspace_size(const FbsConv2dShape* shape);
FbsMultiplication fbs_multiplication_of(const FbsConv2dShape* shape, const int32_t* offsets, const float* bias,
                                        const FbsGatedImage* image, float* y, void* workspace);

/* Cuts vectors of output channels into panels[vectors], as many as it returns. */
int32_t fbs_divide_into_panels(int32_t vectors, FbsPanel* panels);

/* Multiplies some panels for all pixels. `packed` begins with the first of them; NULL with weights in place. */
void fbs_multiply_panels(const FbsMultiplication* multiplication, const FbsKernels* kernels, FbsThreads* threads,
                         const FbsPanel* panels, int32_t count, const float* packed);

#endif
