#include "options.h"

#include <stdlib.h>
#include <string.h>

static bool parse_path(const char* source, const char* value, FbsPath* path, FbsMessage* message) {
  for (*path = kFbsPathAuto; *path <= kFbsPathNeon; ++*path) {
    if (strcmp(value, fbs_path_name(*path)) != 0) continue;
    return fbs_path_available(*path) || fbs_fail(message, "%s '%s' is not available on this CPU", source, value);
  }
  return fbs_fail(message, "%s must be auto, reference, plain, avx2, avx512 or neon, got '%.40s'", source, value);
}

bool fbs_options_parse(const char* const* keys, const char* const* values, size_t count, FbsOptions* options,
                       FbsMessage* message) {
  *options = (FbsOptions){.path = kFbsPathAuto};
  const char* environment = getenv("FBS_PATH");
  if (environment != NULL && *environment != '\0' && !parse_path("FBS_PATH", environment, &options->path, message))
    return false;

  for (size_t i = 0; i < count; ++i) {
    const char* key = keys[i];
    const char* value = values[i];
    if (key == NULL || value == NULL) return fbs_fail(message, "option %zu has no name or no value", i);
    if (strcmp(key, "path") == 0) {
      if (!parse_path("option 'path'", value, &options->path, message)) return false;
    } else if (strcmp(key, "verbose") == 0) {
      if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0) {
        return fbs_fail(message, "option 'verbose' must be 0 or 1, got '%.40s'", value);
      }
      options->verbose = *value == '1';
    } else if (strcmp(key, "profile") == 0) {
      if (strlen(value) >= sizeof options->profile) {
        return fbs_fail(message, "option 'profile' must be a path shorter than %zu bytes", sizeof options->profile);
      }
      strcpy(options->profile, value);
    } else {
      return fbs_fail(message, "option '%.40s' is unknown; the options are path, verbose and profile", key);
    }
  }
  return true;
}
