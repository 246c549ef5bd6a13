#include "flexbuffers.h"

#include <string.h>

/* FlexBuffers' types. A packed type byte is type << 2 | log2(width). */
enum { kInt = 1, kUint = 2, kString = 5, kIndirectInt = 6, kIndirectUint = 7, kMap = 9 };

static bool is_width(uint64_t width) { return width == 1 || width == 2 || width == 4 || width == 8; }

static bool read_uint(const FbsFlexMap* map, size_t position, unsigned width, uint64_t* value) {
  if (position > map->size || width > map->size - position) return false;
  *value = 0;
  for (unsigned i = 0; i < width; ++i) *value |= (uint64_t)map->data[position + i] << (8 * i);
  return true;
}

/* Offsets count backwards from where they are stored. */
static bool follow(const FbsFlexMap* map, size_t position, unsigned width, size_t* target) {
  uint64_t offset;
  if (!read_uint(map, position, width, &offset) || offset > position) return false;
  *target = position - (size_t)offset;
  return true;
}

/* A map lies in memory as: key vector's offset, its width, the count, [values], one type byte for each value. */
bool fbs_flex_open(FbsFlexMap* map, const void* data, size_t size) {
  *map = (FbsFlexMap){.data = data, .size = size};
  if (data == NULL || size < 3) return false;
  const unsigned root_width = map->data[size - 1];
  const unsigned root_type = map->data[size - 2];
  if (!is_width(root_width) || root_width > size - 2 || root_type >> 2 != kMap) return false;
  const unsigned width = map->value_width = 1u << (root_type & 3);
  if (!follow(map, size - 2 - root_width, root_width, &map->values) || map->values < 3 * width) return false;

  uint64_t count, key_width;
  if (!read_uint(map, map->values - width, width, &count)) return false;
  if (!read_uint(map, map->values - 2 * width, width, &key_width) || !is_width(key_width)) return false;
  if (!follow(map, map->values - 3 * width, width, &map->keys)) return false;
  map->key_width = (unsigned)key_width;
  if (count > (size - map->values) / (width + 1) || count > (size - map->keys) / key_width) return false;
  map->count = (size_t)count;
  return true;
}

static FbsFlexStatus find(const FbsFlexMap* map, const char* key, size_t* position, unsigned* packed_type) {
  const size_t key_size = strlen(key) + 1;
  for (size_t i = 0; i < map->count; ++i) {
    size_t at;
    if (!follow(map, map->keys + i * map->key_width, map->key_width, &at)) return kFbsFlexCorrupt;
    if (key_size > map->size - at || memcmp(map->data + at, key, key_size) != 0) continue;
    *position = map->values + i * map->value_width;
    *packed_type = map->data[map->values + map->count * map->value_width + i];
    return kFbsFlexOk;
  }
  return kFbsFlexMissing;
}

FbsFlexStatus fbs_flex_int(const FbsFlexMap* map, const char* key, int64_t* value) {
  size_t position;
  unsigned packed_type;
  const FbsFlexStatus status = find(map, key, &position, &packed_type);
  if (status != kFbsFlexOk) return status;

  const unsigned type = packed_type >> 2;
  unsigned width = map->value_width;
  if (type == kIndirectInt || type == kIndirectUint) {
    if (!follow(map, position, width, &position)) return kFbsFlexCorrupt;
    width = 1u << (packed_type & 3);
  } else if (type != kInt && type != kUint) {
    return kFbsFlexWrongType;
  }
  uint64_t bits;
  if (!read_uint(map, position, width, &bits)) return kFbsFlexCorrupt;
  if (type == kUint || type == kIndirectUint) {
    if (bits > INT64_MAX) return kFbsFlexWrongType;
    *value = (int64_t)bits;
    return kFbsFlexOk;
  }
  const unsigned unused = 64 - 8 * width;
  *value = (int64_t)(bits << unused) >> unused; /* extends the sign */
  return kFbsFlexOk;
}

FbsFlexStatus fbs_flex_string(const FbsFlexMap* map, const char* key, const char** text, size_t* length) {
  size_t position;
  unsigned packed_type;
  const FbsFlexStatus status = find(map, key, &position, &packed_type);
  if (status != kFbsFlexOk) return status;
  if (packed_type >> 2 != kString) return kFbsFlexWrongType;
  if (!follow(map, position, map->value_width, &position)) return kFbsFlexCorrupt;
  const unsigned width = 1u << (packed_type & 3);
  uint64_t size;
  if (position < width || !read_uint(map, position - width, width, &size)) return kFbsFlexCorrupt;
  if (size > map->size - position) return kFbsFlexCorrupt;
  *text = (const char*)map->data + position;
  *length = (size_t)size;
  return kFbsFlexOk;
}
