#pragma once

/* Linux's, as aarch64 has them. */
#define O_RDONLY 00
#define O_WRONLY 01
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_APPEND 02000
#define O_CLOEXEC 02000000

int open(const char* path, int flags, ...);
