/* Drives the delegate without LiteRT (delegate_host.h).
 *
 *   delegate_host ROUNDS
 *
 * runs each valid op by each method, checks that running it allocates nothing, then spoils it ROUNDS times at random
 * (spoiling.h). Each must be refused with a message or computed within its memory; the program is built with
 * sanitizers. Prints how many were refused.
 */
#include "spoiling.h"

/* Every value of every byte of the attributes, and every way to cut off one end; counts those refused. */
static void spoil_every_byte(int op, long* refused, long* tried) {
  const size_t size = ops[op].attributes.size;
  for (size_t at = 0; at < size; ++at) {
    for (int value = 0; value < 256; ++value, ++*tried) {
      Host* host = create_host(op, value % 2);
      host->attributes[at] = (uint8_t)value;
      *refused += !run(host);
      destroy_host(host);
    }
    for (int front = 0; front < 2; ++front, ++*tried) {
      Host* host = create_host(op, front);
      free(host->attributes);
      host->attributes_size = at;
      host->attributes = __real_malloc(at + (at == 0));
      memcpy(host->attributes, ops[op].attributes.bytes + (front ? size - at : 0), at);
      *refused += !run(host);
      destroy_host(host);
    }
  }
}

/* Whether an earlier op of the table has the same kind and attributes. */
static int only_constants_differ(int op) {
  for (int other = 0; other < op; ++other) {
    if (ops[other].attributes.bytes == ops[op].attributes.bytes &&
        strcmp(ops[other].custom_name, ops[op].custom_name) == 0)
      return 1;
  }
  return 0;
}

int main(int argc, char** argv) {
  const long rounds = argc > 1 ? atol(argv[1]) : 1000;
  long refused = 0, tried = rounds;
  create_ops();
  for (int op = 0; op < kOpCount; ++op) {
    for (int variant = 0; variant < 2 * kMethodCount; ++variant) {
      Host* host = create_host(op, variant % 2);
      host->path = variant % 2 ? "auto" : "plain";
      host->method = kMethods[variant / 2];
      if (!run(host)) die("the valid op was refused", host);
      destroy_host(host);
    }
    if (!only_constants_differ(op)) spoil_every_byte(op, &refused, &tried);
  }
  for (long round = 0; round < rounds; ++round) {
    Host* host = random_host();
    spoil(host);
    refused += !run(host);
    destroy_host(host);
  }
  printf("%ld of %ld refused\n", refused, tried);
  return 0;
}
