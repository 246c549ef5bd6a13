/* The constants of an op: float32 and int8 ones are read where they are in the file, float16 ones from a float32 copy
 * that is made when the op is prepared.
 */
#ifndef FBS_DELEGATE_CONSTANTS_H_
#define FBS_DELEGATE_CONSTANTS_H_

#include "tensors.h"

typedef struct {
  int tensor; /* index into the context's tensors */
  int type;
  const void* source; /* in the file */
  size_t bytes;       /* of the source */
  float* copy;        /* owned; NULL when the source is read itself */
} FbsConstant;

/* Finds a constant of the type (kFbsFloat, or one of TFLite's) and shape, e.g. {C_in, C_out}; a size of 0 allows any.
 * Copies nothing. Returns its tensor, NULL when refused. */
const TfLiteTensor* fbs_constant_find(const TfLiteContext* context, int tensor, const char* name, int type, int rank,
                                      const int32_t* sizes, FbsConstant* found, FbsMessage* message);

/* Makes the constant that an op holds the one that has been found, and its copy, unless it is the same already. */
bool fbs_constant_replace(FbsConstant* held, const FbsConstant* found, FbsMessage* message);
void fbs_constant_release(FbsConstant* held);

/* What kernels read. */
const void* fbs_constant_data(const FbsConstant* constant);

/* Bytes of the copy. */
size_t fbs_constant_copy_bytes(const FbsConstant* constant);

/* Whether two are the same values: one source, of one type. */
bool fbs_constant_equal(const FbsConstant* a, const FbsConstant* b);

/* Whether the source is where it was found: an op that computes one before the first run may have moved it. */
bool fbs_constant_stayed(const FbsConstant* constant, const TfLiteContext* context);

#endif
