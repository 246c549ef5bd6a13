#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char* path_name(int i) { return fbs_path_name((FbsPath)i); }
static const char* method_name(int i) { return fbs_method_name((FbsMethod)i); }

/* Which of `count` names the value is; -1, after a message that lists them, if none. */
static int find_name(const char* source, const char* value, const char* (*name)(int), int count, FbsMessage* message) {
  char names[160] = "";
  size_t length = 0;
  for (int i = 0; i < count; ++i) {
    if (strcmp(value, name(i)) == 0) return i;
    const char* separator = i == 0 ? "" : i + 1 < count ? ", " : " or ";
    const int added = snprintf(names + length, sizeof names - length, "%s%s", separator, name(i));
    length += added > 0 && (size_t)added < sizeof names - length ? (size_t)added : 0;
  }
  fbs_fail(message, "%s must be %s, got '%.40s'", source, names, value);
  return -1;
}

static bool parse_path(const char* source, const char* value, FbsPath* path, FbsMessage* message) {
  const int found = find_name(source, value, path_name, kFbsPaths, message);
  if (found < 0) return false;
  *path = (FbsPath)found;
  return fbs_path_available(*path) || fbs_fail(message, "%s '%s' is not available on this CPU", source, value);
}

static bool parse_method(const char* source, const char* value, FbsMethod* method, FbsMessage* message) {
  const int found = find_name(source, value, method_name, kFbsMethods, message);
  if (found < 0) return false;
  *method = (FbsMethod)found;
  return true;
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
