#pragma once

#include <stddef.h>

void* calloc(size_t count, size_t size);
void free(void* memory);
char* getenv(const char* name);
void* malloc(size_t size);
int posix_memalign(void** memory, size_t alignment, size_t size);
void qsort(void* array, size_t count, size_t size, int (*compare)(const void*, const void*));
