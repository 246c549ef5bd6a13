/* The op fbs.add. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/add.h"
#include "attributes.h"
#include "op.h"
#include "tensors.h"

typedef struct {
  int32_t addends, channels;
  int32_t compact; /* bit i: addend i holds only the channels that its indices name */
  FbsActivation activation;
  /* Indices into the context's tensors; kFbsNoTensor for those that are not there. */
  int x[kFbsMaxAddends], indices[kFbsMaxAddends];
  int y;
  FbsAddShape shape;
} Op;

/* An addend's name for messages: "x0", "indices0". */
typedef struct {
  char text[24];
} Name;

static Name name_of(const char* operand, int32_t i) {
  Name name;
  snprintf(name.text, sizeof name.text, "%s%d", operand, (int)i);
  return name;
}

static bool is_compact(const Op* op, int32_t i) { return (op->compact >> i & 1) != 0; }

static bool parse(void* state, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  Op* op = state;
  FbsFlexMap map;
  if (!fbs_attributes_open(&map, attributes, size, message) ||
      !fbs_attribute_int(&map, "addends", 1, kFbsMaxAddends, &op->addends, message) ||
      !fbs_attribute_int(&map, "compact", 0, (1 << op->addends) - 1, &op->compact, message) ||
      !fbs_attribute_int(&map, "channels", 1, INT32_MAX, &op->channels, message) ||
      !fbs_attribute_activation(&map, &op->activation, message)) {
    return false;
  }
  int expected = op->addends;
  for (int32_t i = 0; i < op->addends; ++i) expected += is_compact(op, i);
  const int inputs = node->inputs != NULL ? node->inputs->size : 0;
  const int outputs = node->outputs != NULL ? node->outputs->size : 0;
  if (inputs != expected) {
    return fbs_fail(message, "expected %d inputs (%d addends, %d with indices), got %d", expected, (int)op->addends,
                    expected - (int)op->addends, inputs);
  }
  if (outputs != 1) return fbs_fail(message, "expected 1 output (y), got %d", outputs);
  const int* operand = node->inputs->data;
  for (int32_t i = 0; i < kFbsMaxAddends; ++i) {
    op->x[i] = i < op->addends ? *operand++ : kFbsNoTensor;
    op->indices[i] = is_compact(op, i) ? *operand++ : kFbsNoTensor;
  }
  op->y = node->outputs->data[0];
  return true;
}

/* Whether two shapes are equal but for the channels. */
static bool same_pixels(const TfLiteIntArray* a, const TfLiteIntArray* b) {
  return a->size == b->size && memcmp(a->data, b->data, (size_t)(a->size - 1) * sizeof *a->data) == 0;
}

static bool check_addend(const TfLiteContext* context, const Op* op, int32_t i, const TfLiteIntArray* first,
                         FbsAddShape* shape, FbsMessage* message) {
  const Name name = name_of("x", i);
  const TfLiteTensor* x = fbs_find_input(context, op->x[i], name.text, kTfLiteFloat32, first->size, message);
  if (x == NULL) return false;
  if (!same_pixels(x->dims, first)) {
    return fbs_fail(message, "%s must be of the shape of x0 but for the channels, %s, got %s", name.text,
                    fbs_dims_text(first).text, fbs_dims_text(x->dims).text);
  }
  const int32_t active = x->dims->data[first->size - 1];
  if (!is_compact(op, i)) {
    return active == op->channels ||
           fbs_fail(message, "%s must hold all %" PRId32 " channels, got %" PRId32, name.text, op->channels, active);
  }
  if (active > op->channels) {
    return fbs_fail(message, "%s must hold at most the %" PRId32 " channels, got %" PRId32, name.text, op->channels,
                    active);
  }
  shape->active[i] = active;
  return fbs_check_indices(context, op->indices[i], name_of("indices", i).text, name.text, shape->batch, active,
                           op->channels, message);
}

static bool check(const TfLiteContext* context, const Op* op, FbsAddShape* shape, FbsMessage* message) {
  const TfLiteTensor* x0 = fbs_find_input(context, op->x[0], "x0", kTfLiteFloat32, 0, message);
  if (x0 == NULL) return false;
  const TfLiteIntArray* first = x0->dims;
  if (first->size < 2) return fbs_fail(message, "x0 must have at least 2 dimensions, got %d", first->size);
  int64_t pixels = 1; /* at most the elements of x0, whose bytes have been checked */
  for (int i = 1; i < first->size - 1; ++i) pixels *= first->data[i];
  if (pixels > INT32_MAX) return fbs_fail(message, "x0 is too large: %s", fbs_dims_text(first).text);
  *shape = (FbsAddShape){.batch = first->data[0],
                         .pixels = (int32_t)pixels,
                         .channels = op->channels,
                         .addends = op->addends,
                         .activation = op->activation};
  for (int32_t i = 0; i < op->addends; ++i) {
    if (!check_addend(context, op, i, first, shape, message)) return false;
  }
  char reason[256];
  const char* refusal = fbs_add_check(shape, reason, sizeof reason);
  if (refusal != NULL) return fbs_fail(message, "%s", refusal);

  int others[2 * kFbsMaxAddends];
  memcpy(others, op->x, sizeof op->x);
  memcpy(others + kFbsMaxAddends, op->indices, sizeof op->indices);
  return fbs_check_output(context, op->y, "y", kTfLiteFloat32, others, 2 * kFbsMaxAddends, message);
}

static void append(char* text, size_t size, const char* format, int value) {
  const size_t used = strlen(text);
  snprintf(text + used, size - used, format, value);
}

/* "1x56x56x(64 + 32/64)" */
static void describe(const FbsAddShape* s, const TfLiteIntArray* dims, char* text, size_t size) {
  for (int i = 0; i < dims->size - 1; ++i) append(text, size, "%dx", dims->data[i]);
  for (int32_t i = 0; i < s->addends; ++i) {
    append(text, size, i == 0 ? "(" : " + ", 0);
    if (s->active[i] > 0) append(text, size, "%d/", s->active[i]);
    append(text, size, "%d", s->channels);
  }
  append(text, size, ")", 0);
}

static bool prepare(void* state, TfLiteContext* context, const FbsSession* session, FbsOpDescription* description,
                    FbsMessage* message) {
  Op* op = state;
  const FbsPath path = session->options.conv.path;
  if (!check(context, op, &op->shape, message)) return false;
  const TfLiteIntArray* first = context->tensors[op->x[0]].dims;
  snprintf(description->kernel, sizeof description->kernel, "add_%s", fbs_add_kernel_name(path));
  describe(&op->shape, first, description->shape, sizeof description->shape);
  description->workspace_bytes = fbs_add_workspace_size(&op->shape, path);
  int32_t* sizes = malloc((size_t)first->size * sizeof *sizes);
  if (sizes == NULL) return fbs_fail(message, "out of memory for the shape of y");
  memcpy(sizes, first->data, (size_t)first->size * sizeof *sizes);
  sizes[first->size - 1] = op->channels;
  const bool ok = fbs_resize(context, op->y, "y", first->size, sizes, message);
  free(sizes);
  return ok;
}

static bool invoke(const void* state, const TfLiteContext* context, const FbsSession* session, FbsMessage* message) {
  const Op* op = state;
  const FbsAddShape* s = &op->shape;
  const int64_t pixels = (int64_t)s->batch * s->pixels;
  bool usable = true;
  FbsMemory inputs[2 * kFbsMaxAddends];
  const float* x[kFbsMaxAddends];
  const int32_t* indices[kFbsMaxAddends];
  for (int32_t i = 0; i < s->addends; ++i) {
    const int32_t active = s->active[i];
    inputs[2 * i] = fbs_memory_of(context, op->x[i], pixels * (active > 0 ? active : s->channels), &usable);
    inputs[2 * i + 1] = fbs_memory_of(context, op->indices[i], (int64_t)s->batch * active, &usable);
    x[i] = inputs[2 * i].data;
    indices[i] = inputs[2 * i + 1].data;
  }
  const FbsMemory y = fbs_memory_of(context, op->y, pixels * s->channels, &usable);
  if (!fbs_check_memory(usable, &y, 1, inputs, 2 * (size_t)s->addends, message)) return false;
  if (fbs_add_run(s, session->options.conv.path, session->threads, x, indices, y.data, session->workspace) != 0) {
    return fbs_fail(message, "an addend's indices hold a value outside [0, %d)", (int)s->channels);
  }
  return true;
}

const FbsOpKind fbs_add_op = {
    .custom_name = "FbsAdd",
    .composite_name = "fbs.add",
    .size = sizeof(Op),
    .parse = parse,
    .prepare = prepare,
    .invoke = invoke,
};
