#include "CLinux.h"

#include <sys/syscall.h>
#include <syslog.h>
#include <unistd.h>

void clinux_syslog_open(const char *name) { openlog(name, LOG_PID, LOG_DAEMON); }

void clinux_syslog(int priority, const char *line) { syslog(priority, "%s", line); }

int clinux_pidfd(pid_t process) { return (int)syscall(SYS_pidfd_open, process, 0); }
