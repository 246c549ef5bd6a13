/* The library's two entry points, TFLite's external delegate interface: what load_delegate() in Python,
 * TfLiteExternalDelegateCreate() in C and benchmark_model --external_delegate_path look up.
 *
 * The delegate claims every FBS op, the custom and the composite. An op it cannot run fails allocate_tensors() with a
 * message; it never leaves one to the composite's decomposition, where nobody would see that the fast kernels are not
 * in use.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "kernel.h"
#include "op.h"
#include "profile.h"

/* Guards FbsDelegate.session, should two interpreters be built with one delegate at the same time. */
static pthread_mutex_t prepare_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Whether one of the node's outputs is marked as a variable. No converter writes such a file: variables are inputs,
 * which an op updates. LiteRT gives such an output no memory in time, and its own ops do not look. */
static bool writes_variable(const TfLiteContext* context, const TfLiteNode* node) {
  for (int i = 0; i < node->outputs->size; ++i) {
    const int tensor = node->outputs->data[i];
    if (tensor >= 0 && (size_t)tensor < context->tensors_size && context->tensors[tensor].is_variable) return true;
  }
  return false;
}

/* The indices of the FBS nodes in the execution plan; free() it. NULL after an error, which has been reported. */
static TfLiteIntArray* find_nodes(TfLiteContext* context) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return NULL;
  TfLiteIntArray* nodes = malloc(sizeof *nodes + (size_t)plan->size * sizeof *nodes->data);
  if (nodes == NULL) {
    context->ReportError(context, "FBS: out of memory. ");
    return NULL;
  }
  /* Copied, because the runtime may move its plan at the next call. */
  nodes->size = plan->size;
  memcpy(nodes->data, plan->data, (size_t)plan->size * sizeof *nodes->data);

  int found = 0;
  int variable = -1;
  for (int i = 0; i < nodes->size; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    const void* attributes;
    size_t size;
    if (context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration) != kTfLiteOk) continue;
    if (writes_variable(context, node)) variable = nodes->data[i];
    if (fbs_op_match(node, registration, &attributes, &size) != NULL) nodes->data[found++] = nodes->data[i];
  }
  if (found > 0 && variable >= 0) {
    context->ReportError(context, "FBS: node %d writes a variable tensor; the file is damaged. ", variable);
    free(nodes);
    return NULL;
  }
  nodes->size = found;
  return nodes;
}

static TfLiteStatus delegate_prepare(TfLiteContext* context, TfLiteDelegate* base) {
  FbsDelegate* delegate = base->data_;
  TfLiteIntArray* nodes = find_nodes(context);
  FbsSession* session = fbs_session_create(&delegate->options);
  TfLiteIntArray* one = malloc(sizeof *one + sizeof *one->data);
  TfLiteStatus status = nodes != NULL && session != NULL && one != NULL ? kTfLiteOk : kTfLiteError;
  if (session == NULL || one == NULL) context->ReportError(context, "FBS: out of memory. ");

  /* One call for each node, so that each op stays a node of its own: TFLite then plans the memory of the tensors
   * between neighbouring ops, which it leaves to the delegate when it merges them, and its profiler shows every layer.
   */
  pthread_mutex_lock(&prepare_mutex);
  delegate->session = session;
  for (int i = 0; status == kTfLiteOk && i < nodes->size; ++i) {
    one->size = 1;
    one->data[0] = nodes->data[i];
    status = context->ReplaceNodeSubsetsWithDelegateKernels(context, fbs_kernel_registration(), one, base);
  }
  delegate->session = NULL;
  pthread_mutex_unlock(&prepare_mutex);

  free(one);
  if (session != NULL) fbs_session_release(session);
  free(nodes);
  return status;
}

TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                              void (*report_error)(const char*)) {
  FbsMessage message;
  FbsDelegate* delegate = calloc(1, sizeof *delegate);
  const bool ok = delegate != NULL ? fbs_options_parse(keys, values, count, &delegate->options, &message) &&
                                         (*delegate->options.profile == '\0' ||
                                          fbs_profile_open(delegate->options.profile, &message))
                                   : fbs_fail(&message, "out of memory");
  if (!ok) {
    if (report_error != NULL) report_error(message.text);
    free(delegate);
    return NULL;
  }
  delegate->base.data_ = delegate;
  delegate->base.Prepare = delegate_prepare;
  delegate->base.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return &delegate->base;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* base) {
  if (base != NULL) free(base->data_);
}
