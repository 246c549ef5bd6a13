/* What org.fbskeras.FbsDelegate calls: makes a delegate, and gives Java its address. Linked with libfbs_delegate.so. */
#include <jni.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct TfLiteDelegate TfLiteDelegate;
TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

/* The callback has no argument of ours; create() is synchronized in Java, so one of them runs at a time. */
static char message[256];

static void keep_message(const char* text) { snprintf(message, sizeof message, "%s", text); }

static void throw_java(JNIEnv* env, const char* name, const char* text) {
  const jclass type = (*env)->FindClass(env, name);
  if (type != NULL) (*env)->ThrowNew(env, type, text);
}

/* Copies count strings of Java's to the heap, with a NULL after the last. Returns NULL, with an exception pending, if
 * one is null or memory runs out. */
static char** copy_strings(JNIEnv* env, jobjectArray array, jsize count);

static void free_strings(char** strings) {
  for (char** each = strings; each != NULL && *each != NULL; each++) free(*each);
  free(strings);
}

JNIEXPORT jlong JNICALL Java_org_fbskeras_FbsDelegate_create(JNIEnv* env, jclass type, jobjectArray names,
                                                             jobjectArray values) {
  (void)type;
  if (names == NULL || values == NULL || (*env)->GetArrayLength(env, names) != (*env)->GetArrayLength(env, values)) {
    throw_java(env, "java/lang/IllegalArgumentException", "there must be as many values of options as names");
    return 0;
  }
  const jsize count = (*env)->GetArrayLength(env, names);
  TfLiteDelegate* delegate = NULL;
  char** keys = copy_strings(env, names, count);
  char** texts = keys == NULL ? NULL : copy_strings(env, values, count);
  if (texts != NULL) {
    keep_message("the FBS delegate could not be made");
    delegate =
        tflite_plugin_create_delegate((const char* const*)keys, (const char* const*)texts, (size_t)count, keep_message);
    if (delegate == NULL) throw_java(env, "java/lang/IllegalArgumentException", message);
  }
  free_strings(keys);
  free_strings(texts);
  return (jlong)(intptr_t)delegate;
}

JNIEXPORT void JNICALL Java_org_fbskeras_FbsDelegate_destroy(JNIEnv* env, jclass type, jlong handle) {
  (void)env;
  (void)type;
  tflite_plugin_destroy_delegate((TfLiteDelegate*)(intptr_t)handle);
}

static char** copy_strings(JNIEnv* env, jobjectArray array, jsize count) {
  char** strings = calloc((size_t)count + 1, sizeof *strings);
  for (jsize i = 0; strings != NULL && i < count; i++) {
    const jstring source = (*env)->GetObjectArrayElement(env, array, i);
    if (source == NULL) {
      throw_java(env, "java/lang/NullPointerException", "the names and values of options must not be null");
      free_strings(strings);
      return NULL;
    }
    const jsize bytes = (*env)->GetStringUTFLength(env, source);
    strings[i] = calloc((size_t)bytes + 1, 1);
    if (strings[i] == NULL) break;
    (*env)->GetStringUTFRegion(env, source, 0, (*env)->GetStringLength(env, source), strings[i]);
    (*env)->DeleteLocalRef(env, source);
  }
  if (strings == NULL || (count > 0 && strings[count - 1] == NULL)) {
    free_strings(strings);
    throw_java(env, "java/lang/OutOfMemoryError", "out of memory");
    return NULL;
  }
  return strings;
}
