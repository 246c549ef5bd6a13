/* The pool of threads: every share of a round is run once, and what was written is there when the round ends. Rounds
 * follow each other at once, or after a pause that lets the workers fall asleep. For ThreadSanitizer. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "testing.h"
#include "threads.h"

enum { kThreads = 4, kRounds = 3000, kMilliseconds = 1000 * 1000 };

static void pause_for(int64_t time) { nanosleep(&(struct timespec){time / 1000000000, time % 1000000000}, NULL); }

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

typedef struct {
  int32_t rounds[kThreads], count;
} Counts;

static void count_round(void* context, int32_t share, int32_t count) {
  Counts* counts = context;
  counts->rounds[share]++;
  if (share == 0) counts->count = count;
}

static void test_rounds(int32_t size) {
  FbsThreads* threads = fbs_threads_create(size);
  CHECK(threads != NULL, "no pool of %d", size);
  CHECK(fbs_threads_count(threads) == size, "%d", fbs_threads_count(threads));
  Counts counts = {{0}, 0};
  for (int32_t round = 1; round <= kRounds; round++) {
    if (round % 500 == 0) pause_for(5 * kMilliseconds);
    fbs_threads_run(threads, count_round, &counts);
    CHECK(counts.count == size, "count %d", counts.count);
    for (int32_t t = 0; t < kThreads; t++) {
      CHECK(counts.rounds[t] == (t < size ? round : 0), "size %d, round %d: share %d ran %d times", size, round, t,
            counts.rounds[t]);
    }
  }
  fbs_threads_destroy(threads);
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
    for (int32_t t = 0; t < size; t++) CHECK(counts.rounds[t] == 2, "share %d ran %d times", t, counts.rounds[t]);
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child of a pool of %d ended with status %d", size,
        status);
  fbs_threads_run(threads, count_round, &counts);
  for (int32_t t = 0; t < size; t++) CHECK(counts.rounds[t] == 2, "share %d ran %d times", t, counts.rounds[t]);
  fbs_threads_destroy(threads);
}

/* ---- Workers without a core ---- */

typedef struct {
  pthread_t runners[kThreads]; /* of the shares */
  atomic_int started;          /* workers */
  atomic_llong took;           /* nanoseconds of the caller's share, once it ends */
  int64_t pause;               /* nanoseconds, that a worker takes longer than twice the caller's share; 0: no longer */
} Meeting;

/* A share waits for the others, so that each thread gets one. */
static void meet(void* context, int32_t share, int32_t count) {
  Meeting* meeting = context;
  const int64_t start = nanoseconds();
  meeting->runners[share] = pthread_self();
  if (share > 0) {
    atomic_fetch_add(&meeting->started, 1);
    while (!atomic_load(&meeting->took)) sched_yield();
    if (meeting->pause > 0) pause_for(meeting->pause + 2 * atomic_load(&meeting->took));
  } else {
    while (atomic_load(&meeting->started) < count - 1) sched_yield();
    atomic_store(&meeting->took, nanoseconds() - start + 1);
  }
}

static void note_runner(void* context, int32_t share, int32_t count) {
  Meeting* meeting = context;
  (void)count;
  meeting->runners[share] = pthread_self();
  pause_for(kMilliseconds / 5);
}

/* How many shares of a round the caller ran. */
static int32_t shares_of_the_caller(FbsThreads* threads) {
  Meeting meeting = {.pause = 0};
  fbs_threads_run(threads, note_runner, &meeting);
  int32_t own = 0;
  for (int32_t t = 0; t < fbs_threads_count(threads); t++)
    own += pthread_equal(meeting.runners[t], pthread_self()) != 0;
  return own;
}

static atomic_int held, released;

static void hold(int signal) {
  (void)signal;
  atomic_fetch_add(&held, 1);
  while (!atomic_load(&released)) {
  }
}

/* Workers that are kept from running, here by a signal that does not return, are not waited for. */
static void test_workers_that_do_not_come(void) {
  FbsThreads* threads = fbs_threads_create(kThreads);
  Meeting meeting = {.pause = 0};
  fbs_threads_run(threads, meet, &meeting);
  signal(SIGUSR1, hold);
  for (int32_t t = 0; t < kThreads; t++) {
    if (!pthread_equal(meeting.runners[t], pthread_self())) pthread_kill(meeting.runners[t], SIGUSR1);
  }
  while (atomic_load(&held) < kThreads - 1) sched_yield();
  alarm(60); /* a caller that waits for them ends here */
  for (int round = 0; round < 5; round++) {
    const int32_t own = shares_of_the_caller(threads);
    CHECK(own == kThreads, "the caller ran %d shares of %d", own, kThreads);
  }
  atomic_store(&released, 1);
  fbs_threads_destroy(threads);
  alarm(0);
}

/* Rounds that last long because of their workers make the caller work alone for a while, and then try again. */
static void test_workers_that_are_slow(void) {
  FbsThreads* threads = fbs_threads_create(2);
  for (int round = 0; round < 2; round++) { /* the first one is not timed */
    Meeting meeting = {.pause = 10 * kMilliseconds};
    fbs_threads_run(threads, meet, &meeting);
  }
  const int64_t start = nanoseconds();
  while (nanoseconds() - start < 30 * kMilliseconds) { /* where eight times 10 are to be worked off */
    CHECK(shares_of_the_caller(threads) == 2, "a worker took part after a loss");
  }
  alarm(60);
  while (shares_of_the_caller(threads) == 2) {
  }
  alarm(0);
  fbs_threads_destroy(threads);
}

int main(void) {
  CHECK(fbs_threads_create(0) == NULL && fbs_threads_create(-1) == NULL, "a pool of no threads");
  fbs_threads_destroy(NULL);
  for (int32_t size = 1; size <= kThreads; size++) test_rounds(size);
  for (int i = 0; i < 50; i++) fbs_threads_destroy(fbs_threads_create(kThreads)); /* ends before it ever ran */
  for (int32_t size = 1; size <= kThreads; size++) test_fork(size);
  test_workers_that_do_not_come();
  test_workers_that_are_slow();
  return 0;
}
