#define _GNU_SOURCE /* sched_getaffinity */
#include "cores.h"

#if defined(__linux__)

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { kMostGroups = 64, kPathBytes = 1024 };

/* What the kernel writes into such files at once: whole, unless it is longer than `size`. */
static bool read_text(const char* path, char* text, size_t size) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const ssize_t length = read(file, text, size - 1);
  close(file);
  text[length > 0 ? length : 0] = '\0';
  return length > 0;
}

/* The number that *text begins with, which is moved past it; 0 for none, and for more than a quota can be. */
static int64_t read_number(const char** text) {
  int64_t number = 0;
  for (; **text >= '0' && **text <= '9'; ++*text) {
    number = number * 10 + (**text - '0');
    if (number > INT64_MAX / 100) return 0;
  }
  return number;
}

/* "150000 100000": so many microseconds of CPU time in each so many; or "max 100000". */
static int32_t quota_of(const char* text) {
  const int64_t quota = read_number(&text);
  if (*text == ' ') text++;
  const int64_t period = read_number(&text);
  if (quota <= 0 || period <= 0) return INT32_MAX;
  const int64_t cores = (quota - 1) / period + 1;
  return cores < INT32_MAX ? (int32_t)cores : INT32_MAX;
}

int32_t fbs_quota_cores(const char* process, const char* root) {
  char groups[4096], path[kPathBytes], text[64];
  if (!read_text(process, groups, sizeof groups)) return INT32_MAX;
  /* A line for each hierarchy; version 2 has the one numbered 0. */
  char* group = groups;
  while (strncmp(group, "0::/", 4) != 0) {
    while (*group != '\0' && *group != '\n') group++;
    if (*group++ == '\0') return INT32_MAX;
  }
  group += 3;
  size_t length = 0;
  while (group[length] != '\0' && group[length] != '\n') length++;
  int32_t least = INT32_MAX;
  for (int n = 0; n < kMostGroups; n++) { /* from the process's own group to the outermost, "/" */
    const int written = snprintf(path, sizeof path, "%s%.*s/cpu.max", root, (int)length, group);
    if (written < kPathBytes && read_text(path, text, sizeof text)) {
      const int32_t cores = quota_of(text);
      least = cores < least ? cores : least;
    }
    if (length == 0) break;
    while (length > 0 && group[--length] != '/') {
    }
  }
  return least;
}

/* The thread's own: a process may keep some of its threads from some cores. */
static int32_t affinity_cores(void) {
  unsigned long words[1024]; /* for 65,536 cores; Linux fails where it has more than fit */
  memset(words, 0, sizeof words);
  if (sched_getaffinity(0, sizeof words, (cpu_set_t*)words) != 0) return INT32_MAX;
  int32_t cores = 0;
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    for (unsigned long word = words[i]; word != 0; word &= word - 1) cores++;
  }
  return cores > 0 ? cores : INT32_MAX;
}

int32_t fbs_usable_cores(void) {
  const int32_t affinity = affinity_cores(), quota = fbs_quota_cores("/proc/self/cgroup", "/sys/fs/cgroup");
  return affinity < quota ? affinity : quota;
}

#else

#include <unistd.h>

int32_t fbs_quota_cores(const char* process, const char* root) {
  (void)process;
  (void)root;
  return INT32_MAX;
}

int32_t fbs_usable_cores(void) {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return cores > 0 && cores < INT32_MAX ? (int32_t)cores : INT32_MAX;
}

#endif
