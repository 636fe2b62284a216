#include "CLinux.h"

#include <errno.h>
#include <paths.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

static int argument_count;
static char **arguments;

// The C library gives constructors what it gives to main.
__attribute__((constructor)) static void keep_arguments(int count, char **values) {
    argument_count = count;
    arguments = values;
}

const char *clinux_argument(int index) { return index >= 0 && index < argument_count ? arguments[index] : NULL; }

// syslog(3) says nothing of a system without a log.
static int log_answers(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = _PATH_LOG};
    int code = ENOENT;
    for (int type = SOCK_DGRAM; type != 0; type = type == SOCK_DGRAM && code == EPROTOTYPE ? SOCK_STREAM : 0) {
        int attempt = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        if (attempt < 0) return -1;
        int result = connect(attempt, (const struct sockaddr *)&address, sizeof address);
        code = errno;
        close(attempt);
        if (result == 0) return 0;
    }
    errno = code;
    return -1;
}

int clinux_syslog_open(const char *name) {
    // syslog(3) keeps the pointer.
    static char kept[32];
    strncpy(kept, name, sizeof kept - 1);
    openlog(kept, LOG_PID | LOG_NDELAY, LOG_DAEMON);
    return log_answers();
}

void clinux_syslog(int priority, const char *line) { syslog(priority, "%s", line); }

int clinux_pidfd(pid_t process) { return (int)syscall(SYS_pidfd_open, process, 0); }

void clinux_close_range(int first, int last) {
    if (syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0u) == 0) return;
    long limit = sysconf(_SC_OPEN_MAX);
    for (int descriptor = first; descriptor <= last && descriptor < limit; descriptor++) close(descriptor);
}

int clinux_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return -1;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit);
}
