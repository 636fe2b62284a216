// The unmount helper: a process of a few lines that keeps the privilege which the serving process gives up. It does
// one thing, for one mount, which it recognises by its device number: a newer mount on the same path is left alone.
#include "CLinuxFuse.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COMMAND_SOCKET = 3 };

static int with_fusermount(const char *path) {
    pid_t child = fork();
    if (child < 0) return errno;
    if (child == 0) {
        execlp("fusermount3", "fusermount3", "-u", "-z", "-q", "--", path, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return errno;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ENOENT : EPERM;
}

// Whether the mount on `device` is anywhere in this namespace: 1, 0, or -1 where nothing tells (no /proc).
static int is_attached(uint64_t device) {
    FILE *table = fopen("/proc/self/mountinfo", "re");
    if (table == NULL) return -1;
    char *line = NULL;
    size_t room = 0;
    int found = 0;
    while (!found && getline(&line, &room, table) > 0) {
        unsigned int high, low;
        found = sscanf(line, "%*d %*d %u:%u ", &high, &low) == 2 && makedev(high, low) == device;
    }
    free(line);
    fclose(table);
    return found;
}

static int detach(char command, const char *path, uint64_t device) {
    uint64_t there = 0;
    if (clinux_mount_device(path, &there) != 0) return errno;
    if (there != device) return EBUSY;
    int flags = UMOUNT_NOFOLLOW | MNT_DETACH | (command == 'f' ? MNT_FORCE : 0);
    if (umount2(path, flags) == 0) return 0;
    if (errno != EPERM) return errno;
    return with_fusermount(path);
}

// Somebody else may unmount at the same moment, or have done so: what is wanted is there then.
static int obey(char command, const char *path, uint64_t device) {
    int code = detach(command, path, device);
    return code != 0 && is_attached(device) == 0 ? 0 : code;
}

static void run(const char *path, uint64_t device) {
    char command;
    for (;;) {
        ssize_t count = recv(COMMAND_SOCKET, &command, 1, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return;
        int answer = obey(command, path, device);
        if (send(COMMAND_SOCKET, &answer, sizeof answer, MSG_NOSIGNAL) < 0) return;
    }
}

// Leaves nothing open but the socket: an inherited /dev/fuse would keep the connection, an inherited image its locks.
static void become_helper(int socket) {
    if (dup2(socket, COMMAND_SOCKET) < 0) _exit(1);
    (void)fcntl(COMMAND_SOCKET, F_SETFD, FD_CLOEXEC);
    (void)syscall(SYS_close_range, COMMAND_SOCKET + 1, ~0u, 0u);
    int null = open("/dev/null", O_RDWR);
    if (null < 0) null = open("/", O_RDONLY | O_DIRECTORY);
    for (int descriptor = 0; null >= 0 && descriptor < 3; descriptor++) (void)dup2(null, descriptor);
    if (null > COMMAND_SOCKET) close(null);
    (void)prctl(PR_SET_NAME, "platter-umount");
    for (int number = 1; number < 32; number++) {
        if (number != SIGCHLD) (void)signal(number, number == SIGINT || number == SIGTERM || number == SIGHUP
                                                        || number == SIGQUIT || number == SIGPIPE
                                                    ? SIG_IGN : SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (chdir("/") != 0) _exit(1);
}

int clinux_helper_start(const char *path, uint64_t device, pid_t *pid) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return -1;
    *pid = fork();
    if (*pid < 0) {
        int code = errno;
        close(ends[0]);
        close(ends[1]);
        errno = code;
        return -1;
    }
    if (*pid == 0) {
        become_helper(ends[1]);
        run(path, device);
        _exit(0);
    }
    close(ends[1]);
    return ends[0];
}

int clinux_helper_ask(int socket, char command) {
    int answer = 0;
    if (send(socket, &command, 1, MSG_NOSIGNAL) != 1) return errno;
    ssize_t count;
    do { count = recv(socket, &answer, sizeof answer, 0); } while (count < 0 && errno == EINTR);
    if (count < 0) return errno;
    return count == (ssize_t)sizeof answer ? answer : EPIPE;
}
