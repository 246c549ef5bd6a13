/* Reads a FlexBuffer map of integers and strings, the form TFLite keeps an op's attributes in.
 *
 * The bytes come from a model file and are trusted in nothing: no read leaves the buffer, whatever it holds.
 */
#ifndef FBS_DELEGATE_FLEXBUFFERS_H_
#define FBS_DELEGATE_FLEXBUFFERS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { kFbsFlexOk, kFbsFlexMissing, kFbsFlexWrongType, kFbsFlexCorrupt } FbsFlexStatus;

typedef struct {
  const uint8_t* data;
  size_t size;
  size_t values; /* where the map's values start; their type bytes follow them */
  size_t keys;   /* where the offsets to the keys start */
  size_t count;
  unsigned value_width, key_width; /* bytes: 1, 2, 4 or 8 */
} FbsFlexMap;

/* False when the buffer does not hold a map at its root. */
bool fbs_flex_open(FbsFlexMap* map, const void* data, size_t size);

FbsFlexStatus fbs_flex_int(const FbsFlexMap* map, const char* key, int64_t* value);

/* The string is not NUL-terminated: it is `length` bytes inside the buffer. */
FbsFlexStatus fbs_flex_string(const FbsFlexMap* map, const char* key, const char** text, size_t* length);

#endif
