#include "attributes.h"

#include <inttypes.h>
#include <string.h>

#include "flexbuffers.h"

static const struct {
  const char* name;
  size_t offset;
  int32_t minimum, maximum;
} kIntegers[] = {
    {"sparse_in", offsetof(FbsAttributes, sparse_in), 0, 1},
    {"k", offsetof(FbsAttributes, k), 1, INT32_MAX},
    {"group_size", offsetof(FbsAttributes, group_size), 1, INT32_MAX},
    {"kernel_h", offsetof(FbsAttributes, kernel_h), 1, INT32_MAX},
    {"kernel_w", offsetof(FbsAttributes, kernel_w), 1, INT32_MAX},
    {"stride_h", offsetof(FbsAttributes, stride_h), 1, INT32_MAX},
    {"stride_w", offsetof(FbsAttributes, stride_w), 1, INT32_MAX},
    {"dilation_h", offsetof(FbsAttributes, dilation_h), 1, INT32_MAX},
    {"dilation_w", offsetof(FbsAttributes, dilation_w), 1, INT32_MAX},
};

static bool fail_status(FbsFlexStatus status, const char* name, const char* type, FbsMessage* message) {
  if (status == kFbsFlexMissing) return fbs_fail(message, "attribute '%s' is missing", name);
  if (status == kFbsFlexWrongType) return fbs_fail(message, "attribute '%s' must be %s", name, type);
  return fbs_fail(message, "the attributes are damaged at '%s'", name);
}

static bool parse_integer(const FbsFlexMap* map, const char* name, int64_t* value, FbsMessage* message) {
  const FbsFlexStatus status = fbs_flex_int(map, name, value);
  return status == kFbsFlexOk || fail_status(status, name, "an integer", message);
}

/* Which of the NULL-terminated `choices` the attribute names, as `*choice`. */
static bool parse_choice(const FbsFlexMap* map, const char* name, const char* const* choices, const char* expected,
                         int* choice, FbsMessage* message) {
  const char* text;
  size_t length;
  const FbsFlexStatus status = fbs_flex_string(map, name, &text, &length);
  if (status != kFbsFlexOk) return fail_status(status, name, "a string", message);
  for (*choice = 0; choices[*choice] != NULL; ++*choice) {
    if (strlen(choices[*choice]) == length && memcmp(choices[*choice], text, length) == 0) return true;
  }
  const int shown = length < 32 ? (int)length : 32;
  return fbs_fail(message, "attribute '%s' must be %s, got '%.*s'", name, expected, shown, text);
}

bool fbs_attributes_parse(const void* data, size_t size, FbsAttributes* attributes, FbsMessage* message) {
  static const char* const kPaddings[] = {"SAME", "VALID", NULL};
  static const char* const kActivations[] = {"NONE", "RELU", "RELU6", NULL};
  FbsFlexMap map;
  if (!fbs_flex_open(&map, data, size)) {
    return fbs_fail(message, "the attributes must be a flexbuffer map; these %zu bytes are none", size);
  }
  int64_t version;
  if (!parse_integer(&map, "version", &version, message)) return false;
  if (version != kFbsOpVersion) {
    return fbs_fail(
        message,
        "the file holds version %" PRId64
        " of this op, and this delegate knows version %d: convert the model again "
        "with the fbs_keras this delegate comes from, or use the delegate of the fbs_keras that wrote the file",
        version, kFbsOpVersion);
  }
  attributes->version = kFbsOpVersion;

  for (size_t i = 0; i < sizeof kIntegers / sizeof *kIntegers; ++i) {
    int64_t value;
    if (!parse_integer(&map, kIntegers[i].name, &value, message)) return false;
    if (value < kIntegers[i].minimum || value > kIntegers[i].maximum) {
      return fbs_fail(message, "attribute '%s' must be in [%" PRId32 ", %" PRId32 "], got %" PRId64, kIntegers[i].name,
                      kIntegers[i].minimum, kIntegers[i].maximum, value);
    }
    *(int32_t*)((char*)attributes + kIntegers[i].offset) = (int32_t)value;
  }

  int padding, activation;
  if (!parse_choice(&map, "padding", kPaddings, "SAME or VALID", &padding, message)) return false;
  if (!parse_choice(&map, "activation", kActivations, "NONE, RELU or RELU6", &activation, message)) return false;
  attributes->same_padding = padding == 0;
  attributes->activation = (FbsActivation)activation; /* kActivations is in the enumeration's order */
  return true;
}
