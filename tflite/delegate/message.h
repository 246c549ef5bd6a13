/* One error sentence, passed up to where it is reported. */
#ifndef FBS_DELEGATE_MESSAGE_H_
#define FBS_DELEGATE_MESSAGE_H_

#include <stdbool.h>

typedef struct {
  char text[384];
} FbsMessage;

/* Writes the sentence and returns false, so that a check reads `return fbs_fail(message, ...)`. */
__attribute__((format(printf, 2, 3))) bool fbs_fail(FbsMessage* message, const char* format, ...);

#endif
