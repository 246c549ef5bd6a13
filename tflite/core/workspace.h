/* Cutting one block of scratch memory into 64-byte aligned parts. */
#ifndef FBS_CORE_WORKSPACE_H_
#define FBS_CORE_WORKSPACE_H_

#include <stddef.h>
#include <stdint.h>

/* Reserves `bytes` after the *size bytes already taken; returns where they begin. */
static inline size_t fbs_reserve(size_t* size, size_t bytes) {
  const size_t offset = *size;
  *size += (bytes + 63) / 64 * 64;
  return offset;
}

/* The share of `total` pieces of work that `thread` of `count` threads begins with; it ends where the next begins. */
static inline int64_t fbs_share(int64_t total, int32_t thread, int32_t count) { return total * thread / count; }

#endif
