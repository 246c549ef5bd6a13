#include "select.h"

int fbs_path_available(FbsPath path) { return path == kFbsPathAuto || path == kFbsPathReference; }

FbsPath fbs_select_path(FbsPath path) { return path == kFbsPathAuto ? kFbsPathReference : path; }

const char* fbs_path_name(FbsPath path) {
  static const char* const names[] = {"auto", "reference", "plain", "avx2", "avx512", "neon"};
  return (unsigned)path < sizeof names / sizeof names[0] ? names[path] : "unknown";
}
