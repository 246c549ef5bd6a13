#include "profile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t fbs_profile_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void fbs_profile_add(FbsProfile* profile, int64_t nanoseconds) {
  profile->nanoseconds[profile->runs++ % kFbsProfileRuns] = nanoseconds;
}

static void write_all(int file, const char* text) {
  size_t left = strlen(text);
  while (left > 0) {
    const ssize_t written = write(file, text, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return; /* a profile is not worth failing for */
    text += written;
    left -= (size_t)written;
  }
}

void fbs_print(const char* text) { write_all(STDERR_FILENO, text); }

static bool append(const char* path, int flags, const char* text) {
  if (strcmp(path, "-") == 0) {
    fbs_print(text);
    return true;
  }
  const int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0644);
  if (file < 0) return false;
  write_all(file, text);
  close(file);
  return true;
}

bool fbs_profile_open(const char* path, FbsMessage* message) {
  return append(path, O_TRUNC, "op\tkernel\tshape\tmacs\tworkspace_bytes\tplan_bytes\truns\tmedian_us\tmin_us\n") ||
         fbs_fail(message, "option 'profile' must be a file that can be written, got '%.200s': %s", path,
                  strerror(errno));
}

static int compare(const void* a, const void* b) {
  const int64_t x = *(const int64_t*)a, y = *(const int64_t*)b;
  return (x > y) - (x < y);
}

void fbs_profile_write(FbsProfile* profile, const char* path, const FbsProfileOp* op) {
  const size_t kept = profile->runs < kFbsProfileRuns ? (size_t)profile->runs : kFbsProfileRuns;
  qsort(profile->nanoseconds, kept, sizeof *profile->nanoseconds, compare);
  const double median = (double)profile->nanoseconds[kept / 2] / 1000;
  const double minimum = (double)profile->nanoseconds[0] / 1000;
  char name[201];
  snprintf(name, sizeof name, "%s", op->op);
  for (char* c = name; *c != '\0'; ++c) {
    if ((unsigned char)*c < ' ') *c = ' '; /* a tab or a newline would begin another column or row */
  }
  char line[640];
  snprintf(line, sizeof line, "%s\t%.40s\t%.200s\t%" PRId64 "\t%zu\t%zu\t%" PRId64 "\t%.2f\t%.2f\n", name, op->kernel,
           op->shape, op->macs, op->workspace_bytes, op->plan_bytes, profile->runs, median, minimum);
  append(path, 0, line);
  profile->runs = 0;
}
