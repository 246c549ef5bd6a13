/* Fuzzes the sum: any shape is refused, or every path of this CPU adds as defined. */
#include "additions.h"
#include "fuzzing.h"

enum { kMostElements = 1 << 15 };

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  begin_input(data, size);
  FbsAddShape s = {.batch = any_size(3),
                   .pixels = any_size(random_between(0, 7) == 0 ? 250 : 24),
                   .channels = any_size(120),
                   .addends = any_size(kFbsMaxAddends),
                   .activation = (FbsActivation)random_between(0, 2)};
  for (int32_t i = 0; i < s.addends && i < kFbsMaxAddends; i++) {
    s.active[i] = random_between(0, 2) == 0 ? 0 : any_size(s.channels > 1 ? s.channels : 1);
  }
  char message[256];
  if (fbs_add_check(&s, message, sizeof message) != NULL) return 0;
  if ((double)s.batch * s.pixels * s.channels > kMostElements) return 0;
  test_case(&s);
  return 0;
}
