/* The kinds of FBS ops. An op checks, prepares and runs itself; kernel.c is what they have in common. */
#ifndef FBS_DELEGATE_OP_H_
#define FBS_DELEGATE_OP_H_

#include "abi.h"
#include "message.h"
#include "session.h"

/* An op as it has been prepared: what profiles and `verbose` tell of it, the workspace that a run needs, and what the
 * op itself holds. */
typedef struct {
  char kernel[40]; /* such as "gemm_avx512" */
  char shape[200];
  int64_t macs;
  size_t workspace_bytes, plan_bytes;
} FbsOpDescription;

typedef struct {
  const char *custom_name, *composite_name;
  size_t size; /* of the op's state, which begins as zeros */

  /* Reads what the file alone decides: the attributes, and which operand is which. */
  bool (*parse)(void* op, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message);

  /* Checks every tensor against the attributes and each other, makes everything else that a run needs, and resizes the
   * outputs; the session's threads have been started. */
  bool (*prepare)(void* op, TfLiteContext* context, const FbsSession* session, FbsOpDescription* description,
                  FbsMessage* message);

  bool (*invoke)(const void* op, const TfLiteContext* context, const FbsSession* session, FbsMessage* message);

  /* Frees what the state points to. NULL: nothing. */
  void (*destroy)(void* op);
} FbsOpKind;

extern const FbsOpKind fbs_conv2d_op, fbs_conv2d_int8_op, fbs_gated_conv2d_op, fbs_gated_conv2d_int8_op;
extern const FbsOpKind fbs_depthwise_conv2d_op, fbs_add_op;

/* The kind of a node that is an FBS op, custom or composite, and its flexbuffer; NULL for any other node. */
const FbsOpKind* fbs_op_match(const TfLiteNode* node, const TfLiteRegistration* registration, const void** attributes,
                              size_t* size);

#endif
