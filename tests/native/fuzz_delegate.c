/* Fuzzes the delegate in a host of its own: one op of each kind, whose attributes are the fuzzer's input, and whose
 * tensors, operands and values are spoilt by it. It is refused with a message or computed within its memory. */
#include "fuzzing.h"
#include "spoiling.h"

static void replace_attributes(Host* host) {
  free(host->attributes);
  host->attributes_size = given_left;
  host->attributes = allocate(given_left);
  if (given_left > 0) memcpy(host->attributes, given, given_left);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (ops[0].custom_name == NULL) create_ops();
  begin_input(data, size);
  Host* host = random_host();
  const uint64_t spoils = random_below(32);
  /* Each at most once: a second one could make a lie of the first, such as about a tensor's size, that no runtime
   * tells. */
  if (spoils & 1) spoil_values(host);
  if (spoils & 2) spoil_tensor(host);
  if (spoils & 4) spoil_node(host);
  if (spoils & 8) replace_attributes(host);
  if ((spoils & 24) == 16) spoil_attributes(host);
  run(host);
  destroy_host(host);
  return 0;
}
