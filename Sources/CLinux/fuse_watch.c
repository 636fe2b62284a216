// Noticing changes of directories, and the small calls that a thread which waits for them needs.
#include "CLinuxFuse.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

int clinux_watch_open(void) { return inotify_init1(IN_CLOEXEC | IN_NONBLOCK); }

int clinux_watch_add(int inotify, int directory) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    return inotify_add_watch(inotify, path,
                             IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB
                                 | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
}

int clinux_watch_read(int inotify, void *context,
                      void (*each)(void *context, int watch, int what, const char *name, size_t length)) {
    char buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
    for (;;) {
        ssize_t count = read(inotify, buffer, sizeof buffer);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno == EAGAIN ? 0 : -1;
        for (char *next = buffer; next < buffer + count;) {
            const struct inotify_event *event = (const struct inotify_event *)next;
            int what = (event->mask & IN_Q_OVERFLOW) ? CLINUX_WATCH_OVERFLOW
                       : (event->mask & (IN_IGNORED | IN_UNMOUNT | IN_MOVE_SELF)) ? CLINUX_WATCH_GONE
                       : (event->mask & (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB))
                           ? CLINUX_WATCH_SETTLED
                           : 0;
            each(context, event->wd, what, event->name, event->len > 0 ? strnlen(event->name, event->len) : 0);
            next += sizeof *event + event->len;
        }
    }
}

int clinux_event_open(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

void clinux_event_signal(int descriptor) {
    uint64_t one = 1;
    while (write(descriptor, &one, sizeof one) < 0 && errno == EINTR) {}
}

void clinux_event_clear(int descriptor) {
    uint64_t count;
    while (read(descriptor, &count, sizeof count) < 0 && errno == EINTR) {}
}

int clinux_thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int code = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0) pthread_setname_np(*thread, name);
    return code;
}

void clinux_watch_remove(int inotify, int watch) { (void)inotify_rm_watch(inotify, watch); }
