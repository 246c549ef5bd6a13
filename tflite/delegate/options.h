/* The delegate's options, as load_delegate(library, options) and --external_delegate_options pass them. */
#ifndef FBS_DELEGATE_OPTIONS_H_
#define FBS_DELEGATE_OPTIONS_H_

#include <stdbool.h>
#include <stddef.h>

#include "../core/conv2d.h"
#include "message.h"

typedef struct {
  /* "path": which kernels; "auto" (the default, the fastest of this CPU), "reference", "plain", "avx2", "avx512" or
   * "neon". The environment variable FBS_PATH gives another default. */
  FbsPath path;
  /* "verbose": "1" prints a line to stderr for each op when it is prepared; "0" is the default. */
  bool verbose;
  /* "profile": a file to write one line to for each op that ran when the interpreter is destroyed, and when the op
   * gets another shape, tab-separated under a header; "-" is stderr. Empty, the default: ops are not timed. */
  char profile[512];
} FbsOptions;

/* False with a message for an unknown key, a bad value, or kernels that this CPU cannot run. */
bool fbs_options_parse(const char* const* keys, const char* const* values, size_t count, FbsOptions* options,
                       FbsMessage* message);

#endif
