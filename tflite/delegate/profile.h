/* How long each op took, written as a tab-separated table. */
#ifndef FBS_DELEGATE_PROFILE_H_
#define FBS_DELEGATE_PROFILE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "message.h"

/* The latest runs of one op with one plan. */
enum { kFbsProfileRuns = 1024 };

typedef struct {
  int64_t runs; /* all of them, also those no longer in the ring */
  int64_t nanoseconds[kFbsProfileRuns];
} FbsProfile;

int64_t fbs_profile_now(void); /* nanoseconds of a steady clock */

void fbs_profile_add(FbsProfile* profile, int64_t nanoseconds);

/* Empties the file and writes the header; "-" is stderr. */
bool fbs_profile_open(const char* path, FbsMessage* message);

/* What stands in an op's line besides its times. */
typedef struct {
  const char *op, *kernel, *shape;
  int64_t macs;
  size_t workspace_bytes; /* of the session's workspace, which all ops share and the largest need decides */
  size_t plan_bytes;      /* of its own */
} FbsProfileOp;

/* Appends one op's line and forgets its runs, of which there must be one at least. */
void fbs_profile_write(FbsProfile* profile, const char* path, const FbsProfileOp* op);

/* Writes the text to stderr without a stdio stream (bionic has had `stderr` only since API 23). */
void fbs_print(const char* text);

#endif
