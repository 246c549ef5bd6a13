#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/* A waiting thread first polls, then sleeps: the parallel parts of a network follow each other within microseconds, and
 * waking a sleeping thread takes tens of them. On a busy core a poll may take milliseconds, so time is counted, not
 * polls. Workers offer their core to others now and then; the caller does not, as it would be gone for milliseconds. */
enum { kPollsPerLook = 50, kPollNanoseconds = 50 * 1000 };

/* A round has lost what it took longer than the caller would have taken alone, at the pace of its own shares. Such a
 * loss comes of a worker that was stopped within a share, and so of cores that others use: the caller then works alone
 * for so many times as long. To read the clock takes half as long as a small round, so it is read for so many rounds
 * after a wait that was long. */
enum { kAlonePerLoss = 8, kTimedRounds = 1000, kMostLoss = 1000 * 1000 * 1000 };

/* Tests for races set it to 0: the caller then leaves all shares but its first to the workers, and never works alone.
 */
#ifndef FBS_CALLER_HELPS
#define FBS_CALLER_HELPS 1
#endif

enum { kCacheLine = 64 };

/* Threads that have fallen asleep until something happens. */
typedef struct {
  atomic_bool any; /* or are about to: what they wait for needs no lock where nobody is */
  pthread_mutex_t mutex;
  pthread_cond_t awake;
} Sleepers;

struct FbsThreads {
  int32_t count;
  int forks; /* of this process and its ancestors: a child has a copy of the pool, and none of its workers */
  int timed_rounds;
  int64_t alone;    /* nanoseconds of work that the caller still does alone */
  unsigned awaited; /* the value of `finished` at which the round ends */

  /* The round, written by the caller and read by who has taken one of its shares. */
  _Alignas(kCacheLine) void (*task)(void* context, int32_t share, int32_t count);
  void* context;
  bool stop;       /* shares are to end their threads */
  atomic_int left; /* shares that nobody has taken; below 0 after workers that came too late */

  _Alignas(kCacheLine) atomic_uint finished; /* shares that workers have ended, of all rounds */

  _Alignas(kCacheLine) Sleepers workers;
  Sleepers caller;
  pthread_t* started; /* count - 1 workers */
};

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static bool has_shares(FbsThreads* threads) { return atomic_load(&threads->left) > 0; }
static bool has_ended(FbsThreads* threads) { return atomic_load(&threads->finished) == threads->awaited; }

/* Polls until it is ready; false after kPollNanoseconds in which it was not. */
static bool poll_until(FbsThreads* threads, bool (*ready)(FbsThreads*), bool yields) {
  int64_t deadline = 0; /* unknown yet: most waits end before it matters */
  for (int polls = 1; !ready(threads); polls++) {
    if (polls % kPollsPerLook != 0) {
      RELAX();
      continue;
    }
    const int64_t now = nanoseconds();
    if (deadline == 0) deadline = now + kPollNanoseconds;
    if (now > deadline) return false;
    if (yields) sched_yield();
  }
  return true;
}

/* It says that it sleeps before it looks again, as wake() looks for sleepers after there is what they wait for. */
static void sleep_until(FbsThreads* threads, bool (*ready)(FbsThreads*), Sleepers* sleepers) {
  pthread_mutex_lock(&sleepers->mutex);
  for (;;) {
    atomic_store(&sleepers->any, true);
    if (ready(threads)) break;
    pthread_cond_wait(&sleepers->awake, &sleepers->mutex);
  }
  pthread_mutex_unlock(&sleepers->mutex);
}

static void wake(Sleepers* sleepers) {
  atomic_store(&sleepers->any, false);
  pthread_cond_broadcast(&sleepers->awake);
  pthread_mutex_unlock(&sleepers->mutex);
}

/* A share that nobody has taken, or -1. */
static int32_t take(FbsThreads* threads) {
  if (atomic_load_explicit(&threads->left, memory_order_relaxed) <= 0) return -1;
  const int32_t left = atomic_fetch_sub_explicit(&threads->left, 1, memory_order_acq_rel);
  return left > 0 ? threads->count - left : -1;
}

static void* work(void* argument) {
  FbsThreads* threads = argument;
  for (;;) {
    const int32_t share = take(threads);
    if (share < 0) {
      if (!poll_until(threads, has_shares, true)) {
        sleep_until(threads, has_shares, &threads->workers);
      }
      continue;
    }
    if (threads->stop) return NULL;
    threads->task(threads->context, share, threads->count);
    atomic_fetch_add(&threads->finished, 1);
    if (atomic_load(&threads->caller.any)) {
      pthread_mutex_lock(&threads->caller.mutex);
      wake(&threads->caller);
    }
  }
}

/* Asking for the process's id instead would take 100 ns, and an empty round takes 50. */
static int forks;
static void count_fork(void) { forks++; }
static void count_forks(void) { pthread_atfork(NULL, NULL, count_fork); }

/* Lets the workers take shares. One that has the mutex is not waited for, as it may have lost its core: if it then
 * falls asleep in spite of the shares, the caller takes them. */
static void offer(FbsThreads* threads, int32_t shares) {
  atomic_store(&threads->left, shares);
  if (!atomic_load(&threads->workers.any)) return;
  pthread_mutex_t* mutex = &threads->workers.mutex;
  if ((FBS_CALLER_HELPS ? pthread_mutex_trylock(mutex) : pthread_mutex_lock(mutex)) == 0) wake(&threads->workers);
}

static void run_alone(FbsThreads* threads, void (*task)(void* context, int32_t share, int32_t count), void* context) {
  for (int32_t share = 0; share < threads->count; share++) task(context, share, threads->count);
}

static void run_together(FbsThreads* threads, void (*task)(void* context, int32_t share, int32_t count),
                         void* context) {
  const bool timed = threads->timed_rounds > 0;
  const int64_t start = timed ? nanoseconds() : 0;
  threads->task = task;
  threads->context = context;
  offer(threads, threads->count - 1);
  int32_t own = 0; /* shares */
  for (int32_t share = 0; share >= 0; share = FBS_CALLER_HELPS ? take(threads) : -1) {
    task(context, share, threads->count);
    own++;
  }
  threads->awaited += (unsigned)(threads->count - own);
  const int64_t worked = timed ? nanoseconds() - start : 0;
  if (poll_until(threads, has_ended, false)) {
    if (timed) threads->timed_rounds--;
    return;
  }
  sleep_until(threads, has_ended, &threads->caller);
  threads->timed_rounds = kTimedRounds;
  if (!timed || !FBS_CALLER_HELPS) return;
  const int64_t loss = nanoseconds() - start - worked * threads->count / own;
  if (loss > 0) threads->alone = kAlonePerLoss * (loss < kMostLoss ? loss : kMostLoss);
}

void fbs_threads_run(FbsThreads* threads, void (*task)(void* context, int32_t share, int32_t count), void* context) {
  if (threads->count == 1 || forks != threads->forks) {
    run_alone(threads, task, context);
  } else if (threads->alone > 0) {
    const int64_t start = nanoseconds();
    run_alone(threads, task, context);
    threads->alone -= nanoseconds() - start;
  } else {
    run_together(threads, task, context);
  }
}

static void start_sleepers(Sleepers* sleepers) {
  atomic_init(&sleepers->any, false);
  pthread_mutex_init(&sleepers->mutex, NULL);
  pthread_cond_init(&sleepers->awake, NULL);
}

static void end_sleepers(Sleepers* sleepers) {
  pthread_cond_destroy(&sleepers->awake);
  pthread_mutex_destroy(&sleepers->mutex);
}

/* Each worker takes a share, which ends it. */
static void join(FbsThreads* threads, int32_t workers) {
  threads->stop = true;
  atomic_store(&threads->left, workers);
  pthread_mutex_lock(&threads->workers.mutex);
  wake(&threads->workers);
  for (int32_t i = 0; i < workers; i++) pthread_join(threads->started[i], NULL);
  end_sleepers(&threads->caller);
  end_sleepers(&threads->workers);
}

/* Ends the first `workers` and frees everything. In a forked child the workers are not there, and the mutexes and
 * conditions may be as one of them left them: they hold no memory, and stay as they are. */
static void end(FbsThreads* threads, int32_t workers) {
  if (forks == threads->forks) join(threads, workers);
  free(threads->started);
  free(threads);
}

FbsThreads* fbs_threads_create(int32_t count) {
  void* memory;
  if (count < 1 || posix_memalign(&memory, kCacheLine, sizeof(FbsThreads)) != 0) return NULL;
  FbsThreads* threads = memset(memory, 0, sizeof *threads);
  threads->count = count;
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, count_forks);
  threads->forks = forks;
  atomic_init(&threads->left, 0);
  atomic_init(&threads->finished, 0);
  start_sleepers(&threads->workers);
  start_sleepers(&threads->caller);
  threads->started = calloc((size_t)count, sizeof *threads->started); /* one too many: calloc(0) may return NULL */
  if (threads->started == NULL) {
    end(threads, 0);
    return NULL;
  }
  for (int32_t i = 0; i < count - 1; i++) {
    if (pthread_create(&threads->started[i], NULL, work, threads) != 0) {
      end(threads, i);
      return NULL;
    }
  }
  return threads;
}

void fbs_threads_destroy(FbsThreads* threads) {
  if (threads != NULL) end(threads, threads->count - 1);
}

int32_t fbs_threads_count(const FbsThreads* threads) { return threads->count; }
