#pragma once

#include <stddef.h>

int memcmp(const void* a, const void* b, size_t size);
void* memcpy(void* to, const void* from, size_t size);
void* memmove(void* to, const void* from, size_t size);
void* memset(void* to, int value, size_t size);
int strcmp(const char* a, const char* b);
char* strcpy(char* to, const char* from);
char* strerror(int number);
size_t strlen(const char* text);
int strncmp(const char* a, const char* b, size_t size);
