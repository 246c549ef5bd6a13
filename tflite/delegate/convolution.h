/* What the ops fbs.conv2d, fbs.conv2d_int8 and their forms with the operand g share: everything but the weights and the
 * kernels that multiply them. */
#ifndef FBS_DELEGATE_CONVOLUTION_H_
#define FBS_DELEGATE_CONVOLUTION_H_

#include "../core/conv2d.h"
#include "constants.h"
#include "op.h"
#include "window.h"

enum { kFbsMaxConstants = 5 };

/* The rank says the shape: [C_in][taps][C_out], [C_in][C_out] or [C_out]. */
typedef struct {
  const char* name;
  int type, rank;
} FbsConstantKind;

/* What one of the ops is. `constants` are pointers to them, in the order of their kinds, NULL for those of the gate
 * that a gated op lacks; the functions are as fbs_conv2d_check and fbs_conv2d_create. */
typedef struct {
  const char* operands; /* the constants' names, for messages */
  bool pools;           /* whether there is an attribute `pool` */
  bool gated;           /* whether g is an operand, after in_indices */
  int constant_count;
  FbsConstantKind constants[kFbsMaxConstants]; /* the weights first */
  const char* (*check)(const FbsConv2dShape* shape, const void* const* constants, char* message, size_t message_size);
  FbsConv2d* (*create)(const FbsConv2dShape* shape, const void* const* constants, const FbsConv2dOptions* options);
} FbsConvolutionKind;

/* The state of each op. */
typedef struct {
  const FbsConvolutionKind* kind;
  int32_t sparse_in; /* 1: x holds only the channels that in_indices names */
  int32_t k;
  int32_t group_size;
  FbsWindow window;
  FbsActivation activation;
  int32_t max_pool;
  /* Indices into the context's tensors; in_indices, g and out_indices may be kFbsNoTensor. */
  int x, in_indices, g, y, out_indices;
  FbsConstant constants[kFbsMaxConstants];
  FbsConv2dShape shape; /* what the plan is for */
  FbsConv2d* plan;
} FbsConvolution;

/* As in FbsOpKind. */
bool fbs_convolution_parse(FbsConvolution* op, const FbsConvolutionKind* kind, const TfLiteNode* node,
                           const void* attributes, size_t size, FbsMessage* message);
bool fbs_convolution_prepare(void* op, TfLiteContext* context, const FbsSession* session, FbsOpDescription* description,
                             FbsMessage* message);
bool fbs_convolution_invoke(const void* op, const TfLiteContext* context, const FbsSession* session,
                            FbsMessage* message);
void fbs_convolution_destroy(void* op);

#endif
