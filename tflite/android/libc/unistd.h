#pragma once

#include <stddef.h>

typedef long ssize_t;

#define STDERR_FILENO 2

int close(int file);
ssize_t read(int file, void* data, size_t size);
ssize_t write(int file, const void* data, size_t size);
