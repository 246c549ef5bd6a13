/* Fuzzes the reader of the attributes: whatever the bytes, every value that it finds lies within them. */
#include "../../tflite/delegate/attributes.h"
#include "../../tflite/delegate/window.h"
#include "fuzzing.h"

static const char* const kKeys[] = {
    "version",    "sparse_in", "k",          "group_size", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h",
    "dilation_w", "padding",   "activation", "pool",       "addends",  "compact",  "channels", "",
};

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint8_t* bytes = allocate(size); /* no larger than the input, so that AddressSanitizer sees the first byte beyond */
  if (size > 0) memcpy(bytes, data, size);
  FbsFlexMap map;
  FbsMessage message;
  if (fbs_flex_open(&map, bytes, size)) {
    for (size_t i = 0; i < sizeof kKeys / sizeof *kKeys; i++) {
      int64_t integer;
      const char* text;
      size_t length;
      fbs_flex_int(&map, kKeys[i], &integer);
      if (fbs_flex_string(&map, kKeys[i], &text, &length) != kFbsFlexOk) continue;
      const uint8_t* begin = (const uint8_t*)text;
      CHECK(begin >= bytes && begin <= bytes + size && length <= (size_t)(bytes + size - begin),
            "a string of %zu bytes", length);
      uint8_t sum = 0;
      for (size_t n = 0; n < length; n++) sum ^= begin[n];
      CHECK(sum == sum, "unread");
    }
    int32_t value;
    FbsActivation activation;
    FbsWindow window;
    fbs_attribute_exists(&map, "pool");
    if (fbs_attribute_int(&map, "k", 1, 100, &value, &message)) CHECK(value >= 1 && value <= 100, "%d", value);
    if (fbs_attribute_activation(&map, &activation, &message))
      CHECK(activation <= kFbsActivationRelu6, "%d", activation);
    if (fbs_window_parse(&map, &window, &message)) {
      int32_t taps, height, width, top, left;
      fbs_window_taps(&window, &taps, &message);
      fbs_window_output(&window, 7, 1 << 20, &height, &width, &top, &left, &message);
    }
  }
  if (!fbs_attributes_open(&map, bytes, size, &message)) {
    CHECK(strlen(message.text) > 0 && strlen(message.text) < sizeof message.text, "no message");
  }
  free(bytes);
  return 0;
}
