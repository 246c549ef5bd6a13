#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/* A waiting thread first polls, then sleeps: the parallel parts of a network follow each other within microseconds, and
 * waking a sleeping thread takes tens of them. Now and then it offers its core to the thread it waits for, which may
 * have been put on the same one; on a busy core that may take milliseconds, so time is counted, not polls. */
enum { kPollsPerYield = 50, kPollNanoseconds = 50 * 1000 };

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

struct FbsThreads {
  int32_t count;
  int forks; /* of this process and its ancestors: a child has a copy of the pool, and none of its workers */
  void (*task)(void* context, int32_t thread, int32_t count);
  void* context;
  bool stop;
  atomic_int unfinished; /* workers that have not ended this round */
  atomic_uint started;   /* grows by one with every round, and once more to end the workers */
  atomic_uint finished;  /* grows by one when the last worker has ended the round */
  atomic_int sleeping;   /* threads that wait for `changed`, or are about to: without any, a round needs no lock */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  pthread_t* workers;
  struct Worker* arguments;
};

struct Worker {
  FbsThreads* threads;
  int32_t thread;
};

static void wait_while(FbsThreads* threads, atomic_uint* counter, unsigned seen) {
  int64_t deadline = 0; /* unknown yet: most waits end before it matters */
  for (int polls = 1; atomic_load_explicit(counter, memory_order_acquire) == seen; polls++) {
    if (polls % kPollsPerYield != 0) {
      RELAX();
      continue;
    }
    const int64_t now = nanoseconds();
    if (deadline == 0) deadline = now + kPollNanoseconds;
    if (now > deadline) break;
    sched_yield();
  }
  if (atomic_load_explicit(counter, memory_order_acquire) != seen) return;
  pthread_mutex_lock(&threads->mutex);
  atomic_fetch_add(&threads->sleeping, 1); /* before it looks again, as advance() looks after it has counted */
  while (atomic_load(counter) == seen) pthread_cond_wait(&threads->changed, &threads->mutex);
  atomic_fetch_sub(&threads->sleeping, 1);
  pthread_mutex_unlock(&threads->mutex);
}

static void advance(FbsThreads* threads, atomic_uint* counter) {
  atomic_fetch_add(counter, 1);
  if (atomic_load(&threads->sleeping) == 0) return;
  pthread_mutex_lock(&threads->mutex);
  pthread_cond_broadcast(&threads->changed);
  pthread_mutex_unlock(&threads->mutex);
}

static void* work(void* argument) {
  const struct Worker* worker = argument;
  FbsThreads* threads = worker->threads;
  for (unsigned seen = 0;; seen++) {
    wait_while(threads, &threads->started, seen);
    if (threads->stop) return NULL;
    threads->task(threads->context, worker->thread, threads->count);
    if (atomic_fetch_sub_explicit(&threads->unfinished, 1, memory_order_acq_rel) == 1) {
      advance(threads, &threads->finished);
    }
  }
}

/* Asking for the process's id instead would take 100 ns, and an empty round takes 50. */
static int forks;
static void count_fork(void) { forks++; }
static void count_forks(void) { pthread_atfork(NULL, NULL, count_fork); }

void fbs_threads_run(FbsThreads* threads, void (*task)(void* context, int32_t thread, int32_t count), void* context) {
  if (threads->count == 1 || forks != threads->forks) {
    for (int32_t thread = 0; thread < threads->count; thread++) task(context, thread, threads->count);
    return;
  }
  threads->task = task;
  threads->context = context;
  atomic_store_explicit(&threads->unfinished, threads->count - 1, memory_order_relaxed);
  const unsigned seen = atomic_load_explicit(&threads->finished, memory_order_relaxed);
  advance(threads, &threads->started);
  task(context, 0, threads->count);
  wait_while(threads, &threads->finished, seen);
}

static void join(FbsThreads* threads, int32_t started) {
  threads->stop = true;
  advance(threads, &threads->started);
  for (int32_t i = 0; i < started; i++) pthread_join(threads->workers[i], NULL);
  pthread_cond_destroy(&threads->changed);
  pthread_mutex_destroy(&threads->mutex);
}

/* Ends the first `started` workers and frees everything. In a forked child the workers are not there, and the mutex and
 * the condition may be as one of them left them: they hold no memory, and stay as they are. */
static void end(FbsThreads* threads, int32_t started) {
  if (forks == threads->forks) join(threads, started);
  free(threads->arguments);
  free(threads->workers);
  free(threads);
}

FbsThreads* fbs_threads_create(int32_t count) {
  if (count < 1) return NULL;
  FbsThreads* threads = calloc(1, sizeof *threads);
  if (threads == NULL) return NULL;
  threads->count = count;
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, count_forks);
  threads->forks = forks;
  atomic_init(&threads->unfinished, 0);
  atomic_init(&threads->started, 0);
  atomic_init(&threads->finished, 0);
  atomic_init(&threads->sleeping, 0);
  pthread_mutex_init(&threads->mutex, NULL);
  pthread_cond_init(&threads->changed, NULL);
  const size_t workers = (size_t)count - 1;
  threads->workers = calloc(workers + 1, sizeof *threads->workers); /* + 1: calloc(0) may return NULL */
  threads->arguments = calloc(workers + 1, sizeof *threads->arguments);
  if (threads->workers == NULL || threads->arguments == NULL) {
    end(threads, 0);
    return NULL;
  }
  for (int32_t i = 0; i < count - 1; i++) {
    threads->arguments[i] = (struct Worker){threads, i + 1};
    if (pthread_create(&threads->workers[i], NULL, work, &threads->arguments[i]) != 0) {
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
