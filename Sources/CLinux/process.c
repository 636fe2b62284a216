#include "CLinux.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <unistd.h>

void clinux_syslog_open(const char *name) {
    // syslog(3) keeps the pointer.
    static char kept[32];
    strncpy(kept, name, sizeof kept - 1);
    openlog(kept, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void clinux_syslog(int priority, const char *line) { syslog(priority, "%s", line); }

int clinux_pidfd(pid_t process) { return (int)syscall(SYS_pidfd_open, process, 0); }

int clinux_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return -1;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit);
}
