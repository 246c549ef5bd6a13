/* A pool of threads that run one function over the shares of some work.
 *
 * Shares are taken, not dealt: the caller takes one after another, and so does each worker that has a core to run on.
 * A worker that other programs keep from its core costs nothing then but its help, unless it is stopped within a share,
 * which the caller has to wait for. It makes up for that by working alone for some multiple of what it lost, so that
 * under any load a pool takes about as long as one thread, or less. */
#ifndef FBS_CORE_THREADS_H_
#define FBS_CORE_THREADS_H_

#include <stdint.h>

typedef struct FbsThreads FbsThreads;

/* A pool of `count` threads, the caller's own included, so 1 starts none. NULL when threads or memory run out. */
FbsThreads* fbs_threads_create(int32_t count);
void fbs_threads_destroy(FbsThreads* threads);
int32_t fbs_threads_count(const FbsThreads* threads);

/* Runs task(context, share, count) once for every share = 0..count-1, where `count` is that of the threads, and returns
 * when all have ended. Any thread may run any share, and one thread several, but each share runs on one: so many
 * workspaces serve the shares. In a process forked from the pool's own, the caller runs them all. */
void fbs_threads_run(FbsThreads* threads, void (*task)(void* context, int32_t share, int32_t count), void* context);

#endif
