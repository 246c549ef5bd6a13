#pragma once

/* The compiler computes these without a call. */
#define INFINITY __builtin_inff()
#define isnan(x) __builtin_isnan(x)
#define fabs(x) __builtin_fabs(x)
#define rintf(x) __builtin_rintf(x)
