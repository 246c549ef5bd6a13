#pragma once

#include <stddef.h>

/* As large as bionic's on 64-bit machines, which hold ints and are as zero when they are new; glibc's, which stand in
 * for them in the tests' emulator, hold pointers. */
typedef long pthread_t;
typedef int pthread_once_t;
typedef struct {
  long opaque[5];
} pthread_mutex_t;
typedef struct {
  long opaque[6];
} pthread_cond_t;
typedef struct pthread_attr pthread_attr_t;
typedef long pthread_mutexattr_t;
typedef long pthread_condattr_t;

#define PTHREAD_ONCE_INIT 0
#define PTHREAD_MUTEX_INITIALIZER {{0}}

int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int pthread_cond_broadcast(pthread_cond_t* condition);
int pthread_cond_destroy(pthread_cond_t* condition);
int pthread_cond_init(pthread_cond_t* condition, const pthread_condattr_t* attributes);
int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex);
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument);
int pthread_join(pthread_t thread, void** result);
int pthread_mutex_destroy(pthread_mutex_t* mutex);
int pthread_mutex_init(pthread_mutex_t* mutex, const pthread_mutexattr_t* attributes);
int pthread_mutex_lock(pthread_mutex_t* mutex);
int pthread_mutex_trylock(pthread_mutex_t* mutex);
int pthread_mutex_unlock(pthread_mutex_t* mutex);
int pthread_once(pthread_once_t* once, void (*function)(void));
