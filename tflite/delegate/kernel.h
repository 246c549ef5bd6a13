/* The node that stands for one FBS op in the interpreter's graph. */
#ifndef FBS_DELEGATE_KERNEL_H_
#define FBS_DELEGATE_KERNEL_H_

#include "abi.h"
#include "session.h"

/* What the delegate's `data_` points to. */
typedef struct {
  TfLiteDelegate base;
  FbsOptions options;
  FbsSession* session; /* set while nodes are being replaced: the one that new kernels join */
} FbsDelegate;

TfLiteRegistration fbs_kernel_registration(void);

#endif
