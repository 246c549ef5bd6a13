#include "options.h"

#include <stdlib.h>
#include <string.h>

static bool parse_path(const char* source, const char* value, FbsPath* path, FbsMessage* message) {
  for (*path = kFbsPathAuto; *path < kFbsPaths; ++*path) {
    if (strcmp(value, fbs_path_name(*path)) != 0) continue;
    return fbs_path_available(*path) || fbs_fail(message, "%s '%s' is not available on this CPU", source, value);
  }
  return fbs_fail(message, "%s must be auto, reference, plain, avx2, avx512 or neon, got '%.40s'", source, value);
}

static bool parse_method(const char* source, const char* value, FbsMethod* method, FbsMessage* message) {
  for (*method = kFbsMethodAuto; *method < kFbsMethods; ++*method) {
    if (strcmp(value, fbs_method_name(*method)) == 0) return true;
  }
  return fbs_fail(message, "%s must be auto, gemm, inplace, grouped, winograd2 or winograd4, got '%.40s'", source,
                  value);
}

/* The value of an environment variable, NULL when it is unset or empty. */
static const char* environment(const char* name) {
  const char* value = getenv(name);
  return value != NULL && *value != '\0' ? value : NULL;
}

bool fbs_options_parse(const char* const* keys, const char* const* values, size_t count, FbsOptions* options,
                       FbsMessage* message) {
  *options = (FbsOptions){.conv = FBS_CONV2D_DEFAULTS};
  const char* path = environment("FBS_PATH");
  const char* method = environment("FBS_METHOD");
  if (path != NULL && !parse_path("FBS_PATH", path, &options->conv.path, message)) return false;
  if (method != NULL && !parse_method("FBS_METHOD", method, &options->conv.method, message)) return false;

  for (size_t i = 0; i < count; ++i) {
    const char* key = keys[i];
    const char* value = values[i];
    if (key == NULL || value == NULL) return fbs_fail(message, "option %zu has no name or no value", i);
    if (strcmp(key, "path") == 0) {
      if (!parse_path("option 'path'", value, &options->conv.path, message)) return false;
    } else if (strcmp(key, "method") == 0) {
      if (!parse_method("option 'method'", value, &options->conv.method, message)) return false;
    } else if (strcmp(key, "winograd") == 0) {
      if (strcmp(value, "0") != 0 && strcmp(value, "2") != 0 && strcmp(value, "4") != 0) {
        return fbs_fail(message, "option 'winograd' must be 0, 2 or 4, got '%.40s'", value);
      }
      options->conv.winograd = *value - '0';
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
      return fbs_fail(message, "option '%.40s' is unknown; the options are path, method, winograd, verbose and profile",
                      key);
    }
  }
  return true;
}
