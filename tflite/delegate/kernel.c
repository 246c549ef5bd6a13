#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op.h"
#include "profile.h"

typedef struct {
  FbsSession* session;
  const FbsOpKind* kind;
  void* op;
  bool parsed;
  FbsMessage message; /* why `parsed` is false */
  char name[128];     /* the output tensor's, which is the Keras layer's or close to it */
  FbsOpDescription description;
  FbsProfile* profile; /* NULL unless asked for */
} FbsKernel;

static TfLiteStatus report(TfLiteContext* context, const FbsKernel* kernel, const FbsMessage* message) {
  context->ReportError(context, "%s '%s': %s. ", kernel->kind != NULL ? kernel->kind->custom_name : "FBS", kernel->name,
                       message->text);
  return kTfLiteError;
}

static void set_name(const TfLiteContext* context, FbsKernel* kernel, const TfLiteNode* node) {
  const TfLiteIntArray* outputs = node->outputs;
  const char* name = NULL;
  if (outputs != NULL && outputs->size > 0 && outputs->data[0] >= 0 &&
      (size_t)outputs->data[0] < context->tensors_size) {
    name = context->tensors[outputs->data[0]].name;
  }
  snprintf(kernel->name, sizeof kernel->name, "%.120s", name != NULL ? name : "?");
}

/* Errors found here wait for prepare: the runtime ignores what init returns. */
static void* kernel_init(TfLiteContext* context, const char* buffer, size_t length) {
  (void)length;
  const TfLiteDelegateParams* params = (const TfLiteDelegateParams*)buffer;
  const FbsDelegate* delegate = params->delegate->data_;
  FbsKernel* kernel = calloc(1, sizeof *kernel);
  if (kernel == NULL) return NULL;
  kernel->session = fbs_session_retain(delegate->session);
  if (*kernel->session->options.profile != '\0') kernel->profile = calloc(1, sizeof *kernel->profile);

  TfLiteNode* node;
  TfLiteRegistration* registration;
  const void* attributes = NULL;
  size_t size = 0;
  if (params->nodes_to_replace->size == 1 &&
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) == kTfLiteOk) {
    kernel->kind = fbs_op_match(node, registration, &attributes, &size);
  }
  if (kernel->kind == NULL) {
    fbs_fail(&kernel->message, "the runtime replaced other nodes than asked for");
    return kernel;
  }
  set_name(context, kernel, node);
  kernel->op = calloc(1, kernel->kind->size);
  kernel->parsed = kernel->op != NULL ? kernel->kind->parse(kernel->op, node, attributes, size, &kernel->message)
                                      : fbs_fail(&kernel->message, "out of memory");
  return kernel;
}

/* Writes the row of the profile of the runs so far, if there were any. */
static void write_profile(FbsKernel* kernel) {
  if (kernel->profile == NULL || kernel->profile->runs == 0) return;
  const FbsOpDescription* description = &kernel->description;
  const FbsProfileOp op = {.op = kernel->name,
                           .kernel = description->kernel,
                           .shape = description->shape,
                           .macs = description->macs,
                           .workspace_bytes = description->workspace_bytes,
                           .plan_bytes = description->plan_bytes};
  fbs_profile_write(kernel->profile, kernel->session->options.profile, &op);
}

static void kernel_free(TfLiteContext* context, void* buffer) {
  (void)context;
  FbsKernel* kernel = buffer;
  if (kernel == NULL) return;
  write_profile(kernel);
  if (kernel->op != NULL && kernel->kind->destroy != NULL) kernel->kind->destroy(kernel->op);
  free(kernel->op);
  free(kernel->profile);
  fbs_session_release(kernel->session);
  free(kernel);
}

static void print(const FbsKernel* kernel) {
  const FbsSession* session = kernel->session;
  char line[512];
  snprintf(line, sizeof line, "FBS: %s: %s, %s, %d thread(s), %zu bytes of workspace\n", kernel->name,
           kernel->description.shape, kernel->description.kernel, (int)fbs_threads_count(session->threads),
           kernel->description.workspace_bytes);
  fbs_print(line);
}

static TfLiteStatus kernel_prepare(TfLiteContext* context, TfLiteNode* node) {
  FbsKernel* kernel = node->user_data;
  if (kernel == NULL) {
    context->ReportError(context, "FBS: out of memory. ");
    return kTfLiteError;
  }
  if (!kernel->parsed) return report(context, kernel, &kernel->message);

  FbsMessage message;
  FbsOpDescription description = {.macs = 0};
  if (!fbs_session_start(kernel->session, context->recommended_num_threads, &message) ||
      !kernel->kind->prepare(kernel->op, context, kernel->session, &description, &message) ||
      !fbs_session_reserve(kernel->session, description.workspace_bytes, &message)) {
    return report(context, kernel, &message);
  }
  if (strcmp(description.shape, kernel->description.shape) != 0) { /* a row of the profile for each shape */
    write_profile(kernel);
    kernel->description = description;
    if (kernel->session->options.verbose) print(kernel);
  }
  return kTfLiteOk;
}

static TfLiteStatus kernel_invoke(TfLiteContext* context, TfLiteNode* node) {
  FbsKernel* kernel = node->user_data;
  FbsMessage message;
  const int64_t start = kernel->profile != NULL ? fbs_profile_now() : 0;
  if (!kernel->kind->invoke(kernel->op, context, kernel->session, &message)) return report(context, kernel, &message);
  if (kernel->profile != NULL) fbs_profile_add(kernel->profile, fbs_profile_now() - start);
  return kTfLiteOk;
}

/* What benchmark_model shows beside the node. */
static const char* kernel_profiling_string(const TfLiteContext* context, const TfLiteNode* node) {
  (void)context;
  const FbsKernel* kernel = node->user_data;
  return kernel != NULL && *kernel->description.kernel != '\0' ? kernel->description.kernel : NULL;
}

TfLiteRegistration fbs_kernel_registration(void) {
  return (TfLiteRegistration){
      .init = kernel_init,
      .free = kernel_free,
      .prepare = kernel_prepare,
      .invoke = kernel_invoke,
      .profiling_string = kernel_profiling_string,
      .builtin_code = kTfLiteBuiltinDelegate,
      .custom_name = "FbsDelegate",
      .version = 1,
  };
}
