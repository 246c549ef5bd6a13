/* The part of TFLite's C interface that an external delegate touches: our own declarations, under TFLite's names so
 * that they read like its documentation. The stock wheels ship neither headers nor symbols to link with, but this
 * struct layout is what they load plugins by; since TF 2.5 fields have only been appended. Anything after the last
 * field declared here is never read.
 */
#ifndef FBS_DELEGATE_ABI_H_
#define FBS_DELEGATE_ABI_H_

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

enum { kTfLiteFloat32 = 1, kTfLiteInt32 = 2, kTfLiteInt8 = 9, kTfLiteFloat16 = 10 };

enum { kTfLiteMmapRo = 1, kTfLitePersistentRo = 5, kTfLiteVariantObject = 7, kTfLiteNonCpu = 8 };

/* 1: without it the runtime prepares the graph before it asks the delegate, and fails on the custom op. */
enum { kTfLiteDelegateFlagsAllowDynamicTensors = 1 };

enum { kTfLiteBuiltinCustom = 32, kTfLiteBuiltinDelegate = 51, kTfLiteBuiltinStablehloComposite = 206 };

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

typedef struct TfLiteContext TfLiteContext;
typedef struct TfLiteNode TfLiteNode;
typedef struct TfLiteRegistration TfLiteRegistration;
typedef struct TfLiteDelegate TfLiteDelegate;

typedef struct {
  int type;
  void* data;
  TfLiteIntArray* dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  TfLiteDelegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void* params;
  } quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
} TfLiteTensor;

struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  TfLiteDelegate* delegate;
  bool might_have_side_effect;
};

struct TfLiteRegistration {
  void* (*init)(TfLiteContext* context, const char* buffer, size_t length);
  void (*free)(TfLiteContext* context, void* buffer);
  TfLiteStatus (*prepare)(TfLiteContext* context, TfLiteNode* node);
  TfLiteStatus (*invoke)(TfLiteContext* context, TfLiteNode* node);
  const char* (*profiling_string)(const TfLiteContext* context, const TfLiteNode* node);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
};

struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext* context, TfLiteIntArray** plan);
  TfLiteTensor* tensors;
  void* impl_;
  TfLiteStatus (*ResizeTensor)(TfLiteContext* context, TfLiteTensor* tensor,
                               TfLiteIntArray* dims); /* takes dims over */
  void (*ReportError)(TfLiteContext* context, const char* format, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext* context, int count, int* first);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext* context, int index, TfLiteNode** node,
                                         TfLiteRegistration** registration);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext* context, TfLiteRegistration registration,
                                                        const TfLiteIntArray* nodes, TfLiteDelegate* delegate);
  int recommended_num_threads;
};

struct TfLiteDelegate {
  void* data_;
  TfLiteStatus (*Prepare)(TfLiteContext* context, TfLiteDelegate* delegate);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
};

/* What a delegate kernel's init receives as `buffer`. */
typedef struct {
  TfLiteDelegate* delegate;
  TfLiteIntArray* nodes_to_replace;
  TfLiteIntArray* input_tensors;
  TfLiteIntArray* output_tensors;
} TfLiteDelegateParams;

/* builtin_data of a STABLEHLO_COMPOSITE node. */
typedef struct {
  const char* name;
  int32_t subgraph_index;
  int32_t version;
  const uint8_t* attributes;
  size_t attributes_size;
} TfLiteStablehloCompositeParams;

/* The entry points of an external delegate, the only symbols the library exports. `keys` and `values` hold `count`
 * options; report_error may be NULL. Returns NULL when the delegate cannot be had. */
__attribute__((visibility("default"))) TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys,
                                                                                     const char* const* values,
                                                                                     size_t count,
                                                                                     void (*report_error)(const char*));
__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

static_assert(sizeof(TfLiteTensor) == 112, "TFLite's tensors are 112 bytes apart");
static_assert(offsetof(TfLiteTensor, data) == 8, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, dims) == 16, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, allocation_type) == 32, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, bytes) == 40, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, name) == 56, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, quantization) == 80, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, sparsity) == 96, "TfLiteTensor");
static_assert(offsetof(TfLiteNode, user_data) == 32, "TfLiteNode");
static_assert(offsetof(TfLiteNode, custom_initial_data_size) == 56, "TfLiteNode");
static_assert(sizeof(TfLiteRegistration) == 88, "TfLiteRegistration is passed by value");
static_assert(offsetof(TfLiteRegistration, custom_name) == 48, "TfLiteRegistration");
static_assert(offsetof(TfLiteContext, tensors) == 16, "TfLiteContext");
static_assert(offsetof(TfLiteContext, ReportError) == 40, "TfLiteContext");
static_assert(offsetof(TfLiteContext, recommended_num_threads) == 72, "TfLiteContext");
static_assert(offsetof(TfLiteDelegate, flags) == 40, "TfLiteDelegate");
static_assert(offsetof(TfLiteStablehloCompositeParams, attributes) == 16, "TfLiteStablehloCompositeParams");

#endif
