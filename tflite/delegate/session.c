#include "session.h"

#include <stdlib.h>

#include "../core/cores.h"

FbsSession* fbs_session_create(const FbsOptions* options) {
  FbsSession* session = malloc(sizeof *session);
  if (session != NULL) *session = (FbsSession){.references = 1, .options = *options};
  return session;
}

FbsSession* fbs_session_retain(FbsSession* session) {
  ++session->references;
  return session;
}

void fbs_session_release(FbsSession* session) {
  if (--session->references > 0) return;
  if (session->threads != NULL) fbs_threads_destroy(session->threads);
  free(session->workspace);
  free(session);
}

bool fbs_session_start(FbsSession* session, int threads, FbsMessage* message) {
  if (session->threads != NULL) return true;
  const int32_t cores = fbs_usable_cores();
  if (threads < 1) threads = 1; /* TFLite's -1 leaves the choice to us */
  if (threads > cores) threads = cores;
  session->threads = fbs_threads_create(threads);
  return session->threads != NULL || fbs_fail(message, "%d threads could not be started", threads);
}

bool fbs_session_reserve(FbsSession* session, size_t size, FbsMessage* message) {
  if (size <= session->workspace_size) return true;
  void* workspace;
  if (posix_memalign(&workspace, 64, size) != 0)
    return fbs_fail(message, "out of memory for %zu bytes of workspace", size);
  free(session->workspace);
  session->workspace = workspace;
  session->workspace_size = size;
  return true;
}
