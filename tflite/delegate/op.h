/* One FBS op of a graph: which tensors it reads and writes, and whether they are what docs/design.md says. */
#ifndef FBS_DELEGATE_OP_H_
#define FBS_DELEGATE_OP_H_

#include "../core/conv2d.h"
#include "abi.h"
#include "attributes.h"
#include "message.h"

enum { kFbsNoTensor = -1 };

typedef struct {
  FbsAttributes attributes;
  /* Indices into the context's tensors; in_indices and out_indices may be kFbsNoTensor. */
  int x, in_indices, weights, bias, gate_kernel, gate_bias;
  int y, out_indices;
} FbsOp;

/* True for the custom op and for the composite; `*attributes` then holds the op's flexbuffer. */
bool fbs_op_match(const TfLiteNode* node, const TfLiteRegistration* registration, const void** attributes,
                  size_t* size);

/* Reads what the file alone decides: the attributes, and which operand is which. */
bool fbs_op_parse(const TfLiteNode* node, const void* attributes, size_t size, FbsOp* op, FbsMessage* message);

/* Checks every tensor against the attributes and each other; needs the input's shape, so it belongs in Prepare. */
bool fbs_op_check(const TfLiteContext* context, const FbsOp* op, FbsConv2dShape* shape, FbsConv2dWeights* weights,
                  FbsMessage* message);

#endif
