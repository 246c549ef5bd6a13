/* The delegate's options, as load_delegate(library, options) and --external_delegate_options pass them. */
#ifndef FBS_DELEGATE_OPTIONS_H_
#define FBS_DELEGATE_OPTIONS_H_

#include <stdbool.h>
#include <stddef.h>

#include "../core/conv2d.h"
#include "message.h"

typedef struct {
  /* "path": which kernels; "auto" (the default, the fastest of this CPU), "reference", "plain", "avx2", "avx512" or
   * "neon". The environment variable FBS_PATH gives another default.
   * "method": how to convolve; "auto" (the default, what measured fastest for each shape), or one for all shapes that
   * it can compute: "gemm", "inplace", "grouped", "winograd2" or "winograd4". The environment variable FBS_METHOD gives
   * another default.
   * "winograd": the largest Winograd tile that "auto" may choose: "4" (the default), "2", which rounds no worse than
   * the direct methods, or "0", none. */
  FbsConv2dOptions conv;
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
