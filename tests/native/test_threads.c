/* The pool of threads: every thread runs every round once, and what they wrote is there when it ends. Rounds follow
 * each other at once, or after a pause that lets the workers fall asleep. For ThreadSanitizer. */
#define _POSIX_C_SOURCE 200809L
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "testing.h"
#include "threads.h"

enum { kThreads = 4, kRounds = 3000 };

typedef struct {
  int32_t rounds[kThreads], count;
} Counts;

static void count_round(void* context, int32_t thread, int32_t count) {
  Counts* counts = context;
  counts->rounds[thread]++;
  if (thread == 0) counts->count = count;
}

/* A forked child has no workers: it still runs every share, and can end the pool. So can the parent afterwards. */
static void test_fork(int32_t size) {
  FbsThreads* threads = fbs_threads_create(size);
  Counts counts = {{0}, 0};
  fbs_threads_run(threads, count_round, &counts);
  const pid_t child = fork();
  CHECK(child >= 0, "no child");
  if (child == 0) {
    alarm(10); /* a child that waits for workers ends here */
    fbs_threads_run(threads, count_round, &counts);
    fbs_threads_destroy(threads);
    for (int32_t t = 0; t < size; t++) CHECK(counts.rounds[t] == 2, "thread %d ran %d times", t, counts.rounds[t]);
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child of a pool of %d ended with status %d", size,
        status);
  fbs_threads_run(threads, count_round, &counts);
  for (int32_t t = 0; t < size; t++) CHECK(counts.rounds[t] == 2, "thread %d ran %d times", t, counts.rounds[t]);
  fbs_threads_destroy(threads);
}

int main(void) {
  CHECK(fbs_threads_create(0) == NULL && fbs_threads_create(-1) == NULL, "a pool of no threads");
  fbs_threads_destroy(NULL);
  for (int32_t size = 1; size <= kThreads; size++) {
    FbsThreads* threads = fbs_threads_create(size);
    CHECK(threads != NULL, "no pool of %d", size);
    CHECK(fbs_threads_count(threads) == size, "%d", fbs_threads_count(threads));
    Counts counts = {{0}, 0};
    for (int32_t round = 1; round <= kRounds; round++) {
      if (round % 500 == 0) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
      fbs_threads_run(threads, count_round, &counts);
      CHECK(counts.count == size, "count %d", counts.count);
      for (int32_t t = 0; t < kThreads; t++) {
        CHECK(counts.rounds[t] == (t < size ? round : 0), "size %d, round %d: thread %d ran %d times", size, round, t,
              counts.rounds[t]);
      }
    }
    fbs_threads_destroy(threads);
  }
  for (int i = 0; i < 50; i++) fbs_threads_destroy(fbs_threads_create(kThreads)); /* ends before it ever ran */
  for (int32_t size = 1; size <= kThreads; size++) test_fork(size);
  return 0;
}
