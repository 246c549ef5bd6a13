/* What every op asks of its tensors: at Prepare of their types and shapes, at Invoke of their memory. The names are the
 * operands' in docs/design.md.
 */
#ifndef FBS_DELEGATE_TENSORS_H_
#define FBS_DELEGATE_TENSORS_H_

#include "abi.h"
#include "message.h"

enum { kFbsNoTensor = -1 };

/* A type besides TFLite's: float32 or float16. */
enum { kFbsFloat = -1 };

/* Bytes of an element of the types that ops take. */
size_t fbs_type_size(int type);

/* "[1, 32, 32, 64]" */
typedef struct {
  char text[96];
} FbsDimsText;

FbsDimsText fbs_dims_text(const TfLiteIntArray* dims);

bool fbs_is_constant(const TfLiteTensor* tensor);

/* Finds an input: of the type (kFbsFloat, or one of TFLite's) and rank (0: any), with sizes of at least 1, and as many
 * bytes as they ask for. */
const TfLiteTensor* fbs_find_input(const TfLiteContext* context, int index, const char* name, int type, int rank,
                                   FbsMessage* message);

/* Checks the indices of `active` of `channels` channels that the tensor `x_name` holds; the values of constant ones
 * too, those of others when the op runs. */
bool fbs_check_indices(const TfLiteContext* context, int index, const char* name, const char* x_name, int32_t batch,
                       int32_t active, int32_t channels, FbsMessage* message);

/* Checks a tensor to be written, which must be none of the `others`. */
bool fbs_check_output(const TfLiteContext* context, int index, const char* name, int type, const int* others,
                      size_t count, FbsMessage* message);

bool fbs_resize(TfLiteContext* context, int index, const char* name, int rank, const int32_t* sizes,
                FbsMessage* message);

typedef struct {
  void* data;
  size_t bytes;
} FbsMemory;

/* The memory of a tensor of 4-byte elements, nothing for kFbsNoTensor. Clears `*usable` when it is not what Prepare
 * saw: TFLite lets several ops write, and so resize, one tensor, and then the last one prepared decides. */
FbsMemory fbs_memory_of(const TfLiteContext* context, int index, int64_t elements, bool* usable);

/* Whether an op can run: its memory is usable, and its outputs overlap nothing. TFLite plans a tensor's memory up to
 * its last reader, and gives it to others when an op writes it after that. */
bool fbs_check_memory(bool usable, const FbsMemory* outputs, size_t output_count, const FbsMemory* inputs,
                      size_t input_count, FbsMessage* message);

#endif
