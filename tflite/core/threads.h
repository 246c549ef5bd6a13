/* A pool of worker threads that run one function over a static split of the work. */
#ifndef FBS_CORE_THREADS_H_
#define FBS_CORE_THREADS_H_

#include <stdint.h>

typedef struct FbsThreads FbsThreads;

/* A pool of `count` threads, the caller's own included, so 1 starts none. NULL when threads or memory run out. */
FbsThreads* fbs_threads_create(int32_t count);
void fbs_threads_destroy(FbsThreads* threads);
int32_t fbs_threads_count(const FbsThreads* threads);

/* Runs task(context, thread, count) on every thread, thread = 0..count-1, and returns when all have ended. In a process
 * forked from the pool's own, which has none of its threads, the caller runs them all, one after another. */
void fbs_threads_run(FbsThreads* threads, void (*task)(void* context, int32_t thread, int32_t count), void* context);

#endif
