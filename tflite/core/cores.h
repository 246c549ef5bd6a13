/* How many cores this process may use. */
#ifndef FBS_CORE_CORES_H_
#define FBS_CORE_CORES_H_

#include <stdint.h>

/* At most as many threads can run at the same time: those that the calling thread may be put on, fewer where the
 * process's control group has a quota of CPU time. INT32_MAX where the system does not say. */
int32_t fbs_usable_cores(void);

/* The least quota of a process's control group (version 2) and the groups around it, in cores, rounded up; INT32_MAX is
 * none. `process` is the file that names the group, /proc/self/cgroup, and `root` the folder of all groups. */
int32_t fbs_quota_cores(const char* process, const char* root);

#endif
