/* How many cores a process may use: those of its affinity, and the quotas of its control groups. */
#define _GNU_SOURCE
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cores.h"
#include "testing.h"

static char folder[] = "/tmp/fbs_cores_XXXXXX";

static void path_of(char* path, const char* name) { snprintf(path, PATH_MAX, "%s/%s", folder, name); }

static void write_file(const char* name, const char* text) {
  char path[PATH_MAX];
  path_of(path, name);
  FILE* file = fopen(path, "w");
  CHECK(file != NULL, "%s cannot be written", path);
  fputs(text, file);
  fclose(file);
}

static int32_t quota(void) {
  char process[PATH_MAX];
  path_of(process, "cgroup");
  return fbs_quota_cores(process, folder);
}

static void test_quotas(void) {
  static const struct {
    const char *text, *group; /* of the process */
    const char* limits[3];    /* of "/", "/a" and "/a/b" */
    int32_t cores;
  } rows[] = {
      {"one group", "0::/a\n", {NULL, "150000 100000\n", NULL}, 2},
      {"whole cores", "0::/a\n", {NULL, "300000 100000\n", NULL}, 3},
      {"less than a core", "0::/a\n", {NULL, "1000 100000\n", NULL}, 1},
      {"no limit", "0::/a\n", {NULL, "max 100000\n", NULL}, INT32_MAX},
      {"the group around it", "0::/a/b\n", {NULL, "200000 100000\n", "max 100000\n"}, 2},
      {"the least of all", "0::/a/b\n", {"400000 100000\n", "100000 100000\n", "800000 100000\n"}, 1},
      {"the root alone", "0::/\n", {"250000 100000\n", NULL, NULL}, 3},
      {"after other hierarchies",
       "12:cpu,cpuacct:/x\n1:name=systemd:/0::/y\n0::/a\n",
       {NULL, "100000 100000\n", NULL},
       1},
      {"version 1", "2:cpu:/a\n1:name=systemd:/a\n", {"100000 100000\n", "100000 100000\n", NULL}, INT32_MAX},
      {"no line's end", "0::/a", {NULL, "100000 100000", NULL}, 1},
      {"no file of limits", "0::/a/b\n", {NULL, NULL, NULL}, INT32_MAX},
      {"nothing", "", {"100000 100000\n", NULL, NULL}, INT32_MAX},
      {"a limit of nothing", "0::/\n", {"", NULL, NULL}, INT32_MAX},
      {"half a limit", "0::/\n", {"100000", NULL, NULL}, INT32_MAX},
      {"no period", "0::/\n", {"100000 0\n", NULL, NULL}, INT32_MAX},
      {"words", "0::/\n", {"a few\n", NULL, NULL}, INT32_MAX},
      {"more than a number holds", "0::/\n", {"99999999999999999999 100000\n", NULL, NULL}, INT32_MAX},
      {"more cores than a number holds", "0::/\n", {"90000000000000000 1\n", NULL, NULL}, INT32_MAX},
  };
  static const char* const names[] = {"cpu.max", "a/cpu.max", "a/b/cpu.max"};
  char path[PATH_MAX];
  CHECK(mkdtemp(folder) != NULL, "no folder");
  CHECK(quota() == INT32_MAX, "a quota from no file");
  for (int i = 0; i < 2; i++) {
    path_of(path, i == 0 ? "a" : "a/b");
    mkdir(path, 0700);
  }
  for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
    write_file("cgroup", rows[row].group);
    for (int i = 0; i < 3; i++) {
      path_of(path, names[i]);
      remove(path);
      if (rows[row].limits[i] != NULL) write_file(names[i], rows[row].limits[i]);
    }
    const int32_t cores = quota();
    CHECK(cores == rows[row].cores, "%s: %d cores, expected %d", rows[row].text, cores, rows[row].cores);
  }
  char deep[5000]; /* more groups, and a longer path, than are read */
  memset(deep, '/', sizeof deep - 1);
  memcpy(deep, "0::", 3);
  deep[sizeof deep - 1] = '\0';
  write_file("cgroup", deep);
  CHECK(quota() > 0, "groups without end");
  for (int i = 2; i >= 0; i--) {
    path_of(path, names[i]);
    remove(path);
  }
  static const char* const others[] = {"cgroup", "a/b", "a", "."};
  for (int i = 0; i < 4; i++) {
    path_of(path, others[i]);
    remove(path);
  }
}

static void test_affinity(void) {
  cpu_set_t all;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0, "no affinity");
  const int32_t cores = fbs_usable_cores();
  CHECK(cores >= 1 && cores <= CPU_COUNT(&all), "%d cores of %d", cores, CPU_COUNT(&all));
  size_t first = 0;
  while (!CPU_ISSET(first, &all)) first++;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0, "no affinity with core %d", (int)first);
  CHECK(fbs_usable_cores() == 1, "%d cores where one is allowed", fbs_usable_cores());
}

int main(void) {
  test_quotas();
  test_affinity();
  return 0;
}
