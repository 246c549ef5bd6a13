/* IEEE 754's half precision, in which files may hold constants. */
#ifndef FBS_DELEGATE_FLOAT16_H_
#define FBS_DELEGATE_FLOAT16_H_

#include <stddef.h>
#include <stdint.h>

/* The same numbers in single precision, which holds each of them exactly. */
void fbs_float16_expand(const uint16_t* halves, size_t count, float* values);

#endif
