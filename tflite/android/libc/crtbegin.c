/* What the NDK links into every shared library: fork handlers belong to the library that asked for them, and go with it
 * when it is unloaded. */
void __cxa_finalize(void* library);
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void* library);

void* __dso_handle = &__dso_handle;

int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(prepare, parent, child, &__dso_handle);
}

__attribute__((destructor)) static void unload(void) { __cxa_finalize(&__dso_handle); }
