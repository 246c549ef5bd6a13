/* What the ops of one interpreter share: the options, the threads and the scratch memory.
 *
 * A session belongs to one TfLiteContext, whose ops are prepared, run and freed by one thread at a time, so it needs no
 * lock. It lives as long as its ops and does not point to the delegate, so either may be destroyed first. The library
 * must stay loaded until the interpreter is gone, whose ops and threads run its code.
 */
#ifndef FBS_DELEGATE_SESSION_H_
#define FBS_DELEGATE_SESSION_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/threads.h"
#include "message.h"
#include "options.h"

typedef struct {
  int references;
  FbsOptions options;
  FbsThreads* threads; /* NULL until fbs_session_start */
  void* workspace;
  size_t workspace_size;
} FbsSession;

FbsSession* fbs_session_create(const FbsOptions* options); /* one reference; NULL when memory runs out */
FbsSession* fbs_session_retain(FbsSession* session);
void fbs_session_release(FbsSession* session);

/* Starts the threads at the first call, no more than there are cores for them; later ones change nothing, as the pool
 * serves all ops. */
bool fbs_session_start(FbsSession* session, int threads, FbsMessage* message);

/* Makes the workspace at least this large. Ops run one after another, so one serves them all. */
bool fbs_session_reserve(FbsSession* session, size_t size, FbsMessage* message);

#endif
