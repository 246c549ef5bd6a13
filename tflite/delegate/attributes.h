/* The attributes of one op, as docs/design.md lists them. */
#ifndef FBS_DELEGATE_ATTRIBUTES_H_
#define FBS_DELEGATE_ATTRIBUTES_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/conv2d.h"
#include "message.h"

/* What the op means may change with it; a file of another version is refused. */
enum { kFbsOpVersion = 1 };

typedef struct {
  int32_t version;
  int32_t sparse_in; /* 1: x holds only the channels that in_indices names */
  int32_t k;
  int32_t group_size;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  bool same_padding; /* TensorFlow's SAME, else VALID */
  FbsActivation activation;
} FbsAttributes;

bool fbs_attributes_parse(const void* data, size_t size, FbsAttributes* attributes, FbsMessage* message);

#endif
