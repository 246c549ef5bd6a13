/* Ways to spoil an op at random: bytes of the attributes and the tensors, tensor indices, types, shapes, sizes,
 * allocation types, data pointers.
 */
#ifndef FBS_TESTS_NATIVE_SPOILING_H_
#define FBS_TESTS_NATIVE_SPOILING_H_

#include "delegate_host.h"

static int interesting(void) {
  static const int kValues[] = {-1, 0,  1,   2,   3,   4,     5,     6,       7,          8,
                                9,  10, 127, 128, 255, 65535, 65536, 1 << 30, 2147483647, -2147483647 - 1};
  return kValues[random_below(sizeof kValues / sizeof *kValues)];
}

static void spoil_attributes(Host* host) {
  const size_t size = host->attributes_size;
  if (random_below(2)) {
    for (uint64_t n = 2 + random_below(4); n > 0; --n) host->attributes[random_below(size)] = (uint8_t)interesting();
  } else { /* a run overwritten with another */
    for (uint64_t n = 1 + random_below(8), to = random_below(size), from = random_below(size); n > 0; --n) {
      host->attributes[(to + n) % size] = host->attributes[(from + n) % size];
    }
  }
}

static void spoil_tensor(Host* host) {
  const int index = (int)random_below((unsigned)host->tensor_count);
  TfLiteTensor* tensor = &host->tensors[index];
  switch (random_below(9)) {
    case 0:
      tensor->type = interesting();
      break;
    case 1:
      tensor->allocation_type = (int)random_below(10);
      break;
    case 2:
      tensor->bytes = random_below(2) ? (size_t)interesting() : tensor->bytes - 4;
      break;
    case 3: /* int8 needs no alignment, so there this would be a lie about its size */
      tensor->data = tensor->type == kTfLiteInt8 || random_below(2) ? NULL : (char*)tensor->data + 1;
      break;
    case 4:
      tensor->dims->data[random_below((unsigned)tensor->dims->size)] = interesting();
      break;
    case 5: /* as many elements in another shape */
      if (tensor->dims->size > 1) {
        const uint64_t other = 1 + random_below((unsigned)tensor->dims->size - 1);
        const int first = tensor->dims->data[0];
        tensor->dims->data[0] = tensor->dims->data[other];
        tensor->dims->data[other] = first;
      }
      break;
    case 6:
      if (random_below(2)) {
        tensor->dims->size = (int)random_below((unsigned)tensor->dims->size);
      } else {
        free(tensor->dims);
        tensor->dims = NULL;
      }
      break;
    case 7:
      tensor->sparsity = tensor;
      break;
    default:
      tensor->name = NULL;
  }
}

static void spoil_node(Host* host) {
  TfLiteIntArray* operands = random_below(2) ? host->inputs : host->outputs;
  switch (random_below(3)) {
    case 0:
      operands->data[random_below((unsigned)operands->size)] = interesting();
      break;
    case 1:
      operands->size = (int)random_below((unsigned)operands->size + 1);
      break;
    default:
      ((int32_t*)host->memory[ops[host->op].indices])[random_below(8)] = interesting();
      if (random_below(2)) host->tensors[ops[host->op].indices].allocation_type = kTfLiteMmapRo;
  }
}

/* What a file or an earlier op may hold: weights of -128, scales that are NaN. */
static void spoil_values(Host* host) {
  const int index = host->inputs->data[random_below((unsigned)host->inputs->size)];
  uint8_t* memory = host->memory[index];
  for (uint64_t n = 1 + random_below(4); n > 0; --n) {
    memory[random_below((unsigned)host->tensors[index].bytes)] = (uint8_t)interesting();
  }
}

static const char* const kMethods[] = {"auto", "gemm", "inplace", "grouped", "winograd2", "winograd4"};
enum { kMethodCount = sizeof kMethods / sizeof *kMethods };

/* An op with any of the delegate's options. */
static Host* random_host(void) {
  Host* host = create_host((int)random_below(kOpCount), (int)random_below(2));
  host->context.recommended_num_threads = (int)random_below(4) - 1;
  host->path = random_below(2) ? "auto" : "plain";
  host->method = kMethods[random_below(kMethodCount)];
  return host;
}

static void spoil(Host* host) {
  static void (*const kSpoils[])(Host*) = {spoil_attributes, spoil_tensor, spoil_values, spoil_node};
  kSpoils[random_below(sizeof kSpoils / sizeof *kSpoils)](host);
}

#endif
