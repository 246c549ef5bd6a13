#include "conv2d_int8.h"

#include <stdio.h>

#include "gemm_int8.h"
#include "isa.h"
#include "reference.h"

FbsConv2d* fbs_conv2d_int8_create(const FbsConv2dShape* shape, const FbsConv2dInt8Weights* weights,
                                  const FbsConv2dOptions* options) {
  if (!fbs_path_available(options->path)) return NULL;
  const FbsConv2dWeights gate = {.gate_kernel = weights->gate_kernel, .gate_bias = weights->gate_bias};
  const FbsInt8Kernels* kernels = fbs_select_int8_kernels(options->path);
  if (kernels == NULL) {
    void* reference = fbs_reference_create((FbsReference){.shape = *shape, .int8_weights = *weights});
    return fbs_conv2d_of(shape, &gate, NULL, &fbs_reference_int8, reference, "int8_reference");
  }
  char name[32];
  snprintf(name, sizeof name, "int8_%s", kernels->name);
  return fbs_conv2d_of(shape, &gate, fbs_select_kernels(options->path), &fbs_gemm_int8,
                       fbs_gemm_int8_create(shape, weights, kernels), name);
}
