#include "attributes.h"

#include <inttypes.h>
#include <string.h>

static bool fail_status(FbsFlexStatus status, const char* name, const char* type, FbsMessage* message) {
  if (status == kFbsFlexMissing) return fbs_fail(message, "attribute '%s' is missing", name);
  if (status == kFbsFlexWrongType) return fbs_fail(message, "attribute '%s' must be %s", name, type);
  return fbs_fail(message, "the attributes are damaged at '%s'", name);
}

static bool read_integer(const FbsFlexMap* map, const char* name, int64_t* value, FbsMessage* message) {
  const FbsFlexStatus status = fbs_flex_int(map, name, value);
  return status == kFbsFlexOk || fail_status(status, name, "an integer", message);
}

bool fbs_attributes_open(FbsFlexMap* map, const void* data, size_t size, FbsMessage* message) {
  if (!fbs_flex_open(map, data, size)) {
    return fbs_fail(message, "the attributes must be a flexbuffer map; these %zu bytes are none", size);
  }
  int64_t version;
  if (!read_integer(map, "version", &version, message)) return false;
  if (version != kFbsOpVersion) {
    return fbs_fail(
        message,
        "the file holds version %" PRId64
        " of this op, and this delegate knows version %d: convert the model again "
        "with the fbs_keras this delegate comes from, or use the delegate of the fbs_keras that wrote the file",
        version, kFbsOpVersion);
  }
  return true;
}

bool fbs_attribute_exists(const FbsFlexMap* map, const char* name) {
  int64_t value;
  return fbs_flex_int(map, name, &value) != kFbsFlexMissing;
}

bool fbs_attribute_int(const FbsFlexMap* map, const char* name, int32_t minimum, int32_t maximum, int32_t* value,
                       FbsMessage* message) {
  int64_t wide;
  if (!read_integer(map, name, &wide, message)) return false;
  if (wide < minimum || wide > maximum) {
    return fbs_fail(message, "attribute '%s' must be in [%" PRId32 ", %" PRId32 "], got %" PRId64, name, minimum,
                    maximum, wide);
  }
  *value = (int32_t)wide;
  return true;
}

bool fbs_attribute_choice(const FbsFlexMap* map, const char* name, const char* const* choices, const char* expected,
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

bool fbs_attribute_activation(const FbsFlexMap* map, FbsActivation* activation, FbsMessage* message) {
  static const char* const kActivations[] = {"NONE", "RELU", "RELU6", NULL}; /* in the enumeration's order */
  int choice;
  if (!fbs_attribute_choice(map, "activation", kActivations, "NONE, RELU or RELU6", &choice, message)) return false;
  *activation = (FbsActivation)choice;
  return true;
}
