#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/* A waiting thread first polls, then sleeps: the parallel parts of a network follow each other within microseconds, and
 * waking a sleeping thread takes tens of them. 2000 polls take about as long as one wake-up. Now and then it offers its
 * core to the thread it waits for, which may have been put on the same one. */
enum { kPolls = 2000, kPollsPerYield = 50 };

static void poll_again(int polls) {
  if (polls % kPollsPerYield == kPollsPerYield - 1) {
    sched_yield();
  } else {
    RELAX();
  }
}

struct FbsThreads {
  int32_t count;
  pid_t owner; /* the process that has the workers: a child that it forks has a copy of the pool, and none of them */
  void (*task)(void* context, int32_t thread, int32_t count);
  void* context;
  atomic_uint round;     /* grows by one with every run, and once more to end the workers */
  atomic_int unfinished; /* workers that have not ended this round */
  bool stop;
  pthread_mutex_t mutex; /* guards sleeping: round and unfinished change under it whenever someone may sleep on them */
  pthread_cond_t started, finished;
  pthread_t* workers;
  struct Worker* arguments;
};

struct Worker {
  FbsThreads* threads;
  int32_t thread;
};

static void wait_for_round(FbsThreads* threads, unsigned seen) {
  for (int i = 0; i < kPolls; i++) {
    if (atomic_load_explicit(&threads->round, memory_order_acquire) != seen) return;
    poll_again(i);
  }
  pthread_mutex_lock(&threads->mutex);
  while (atomic_load_explicit(&threads->round, memory_order_acquire) == seen) {
    pthread_cond_wait(&threads->started, &threads->mutex);
  }
  pthread_mutex_unlock(&threads->mutex);
}

static void* work(void* argument) {
  const struct Worker* worker = argument;
  FbsThreads* threads = worker->threads;
  for (unsigned seen = 0;; seen++) {
    wait_for_round(threads, seen);
    if (threads->stop) return NULL;
    threads->task(threads->context, worker->thread, threads->count);
    if (atomic_fetch_sub_explicit(&threads->unfinished, 1, memory_order_acq_rel) == 1) {
      pthread_mutex_lock(&threads->mutex);
      pthread_cond_signal(&threads->finished);
      pthread_mutex_unlock(&threads->mutex);
    }
  }
}

static void start_round(FbsThreads* threads) {
  pthread_mutex_lock(&threads->mutex);
  atomic_fetch_add_explicit(&threads->round, 1, memory_order_release);
  pthread_cond_broadcast(&threads->started);
  pthread_mutex_unlock(&threads->mutex);
}

void fbs_threads_run(FbsThreads* threads, void (*task)(void* context, int32_t thread, int32_t count), void* context) {
  if (threads->count == 1 || getpid() != threads->owner) {
    for (int32_t thread = 0; thread < threads->count; thread++) task(context, thread, threads->count);
    return;
  }
  threads->task = task;
  threads->context = context;
  atomic_store_explicit(&threads->unfinished, threads->count - 1, memory_order_relaxed);
  start_round(threads);
  task(context, 0, threads->count);
  for (int i = 0; i < kPolls; i++) {
    if (atomic_load_explicit(&threads->unfinished, memory_order_acquire) == 0) return;
    poll_again(i);
  }
  pthread_mutex_lock(&threads->mutex);
  while (atomic_load_explicit(&threads->unfinished, memory_order_acquire) != 0) {
    pthread_cond_wait(&threads->finished, &threads->mutex);
  }
  pthread_mutex_unlock(&threads->mutex);
}

static void join(FbsThreads* threads, int32_t started) {
  threads->stop = true;
  start_round(threads);
  for (int32_t i = 0; i < started; i++) pthread_join(threads->workers[i], NULL);
  pthread_cond_destroy(&threads->finished);
  pthread_cond_destroy(&threads->started);
  pthread_mutex_destroy(&threads->mutex);
}

/* Ends the first `started` workers and frees everything. In a forked child the workers are not there, and the mutex and
 * the conditions may be as one of them left them: they hold no memory, and stay as they are. */
static void end(FbsThreads* threads, int32_t started) {
  if (getpid() == threads->owner) join(threads, started);
  free(threads->arguments);
  free(threads->workers);
  free(threads);
}

FbsThreads* fbs_threads_create(int32_t count) {
  if (count < 1) return NULL;
  FbsThreads* threads = calloc(1, sizeof *threads);
  if (threads == NULL) return NULL;
  threads->count = count;
  threads->owner = getpid();
  atomic_init(&threads->round, 0);
  atomic_init(&threads->unfinished, 0);
  pthread_mutex_init(&threads->mutex, NULL);
  pthread_cond_init(&threads->started, NULL);
  pthread_cond_init(&threads->finished, NULL);
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
