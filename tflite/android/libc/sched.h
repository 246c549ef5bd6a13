#pragma once

#include <stddef.h>

typedef struct cpu_set cpu_set_t;

int sched_getaffinity(int process, size_t size, cpu_set_t* cores);
int sched_yield(void);
