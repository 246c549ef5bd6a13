/* Reading an op's attributes, a flexbuffer map of integers and strings. */
#ifndef FBS_DELEGATE_ATTRIBUTES_H_
#define FBS_DELEGATE_ATTRIBUTES_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/conv2d.h"
#include "flexbuffers.h"
#include "message.h"

/* What the ops mean may change with it; a file of another version is refused. */
enum { kFbsOpVersion = 1 };

/* Opens the map and checks the version. */
bool fbs_attributes_open(FbsFlexMap* map, const void* data, size_t size, FbsMessage* message);

bool fbs_attribute_exists(const FbsFlexMap* map, const char* name);

/* An integer in [minimum, maximum]. */
bool fbs_attribute_int(const FbsFlexMap* map, const char* name, int32_t minimum, int32_t maximum, int32_t* value,
                       FbsMessage* message);

/* Which of the NULL-terminated `choices` the attribute names, as `*choice`; `expected` lists them for people. */
bool fbs_attribute_choice(const FbsFlexMap* map, const char* name, const char* const* choices, const char* expected,
                          int* choice, FbsMessage* message);

/* The attribute "activation". */
bool fbs_attribute_activation(const FbsFlexMap* map, FbsActivation* activation, FbsMessage* message);

#endif
