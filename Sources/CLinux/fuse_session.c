// Requests and replies: libfuse's low-level session with our own threads, and replies that leave by splice.
#include "CLinuxFuse.h"
#include "fuse_library.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096 };

// What one worker keeps between requests. It is thread-local and not in Swift, where a thread-local would cost a lookup
// and reference counting on each read.
static __thread struct {
    int device;  // the session's descriptor
    struct fuse_buf request;
    uint64_t unique;
    void *buffer;
    int reading_end, writing_end;  // valid while capacity > 0
    int capacity;                  // of the pipe in bytes; 0: not made yet; -1: cannot be made
    int slots;                     // how many pieces it holds: one for each page of the machine
    int writes;                    // whether memory is touched before it is needed
    void *touched;                 // the request buffer whose pages are there
} worker;

static void (*log_sink)(const char *line);

static void log_line(enum fuse_log_level level, const char *format, va_list arguments) {
    (void)level;
    char line[512];
    vsnprintf(line, sizeof line, format, arguments);
    line[strcspn(line, "\n")] = 0;
    if (log_sink != NULL && line[0] != 0) log_sink(line);
}

void clinux_fuse_log_to(void (*sink)(const char *line)) {
    log_sink = sink;
    fuse_set_log_func(log_line);
}

// Makes the pages of `memory` from `start` on be there, whatever they hold.
static void touch(void *memory, size_t start, size_t size) {
    volatile char *bytes = memory;
    for (size_t place = start; place < size; place += PAGE) bytes[place] = 0;
}

int clinux_fuse_serve_one(struct fuse_session *session) {
    for (;;) {
        int count = fuse_session_receive_buf(session, &worker.request);
        if (count == -EINTR || count == -EAGAIN) continue;
        if (count == -ENOMEM) {
            // The kernel's memory is short for a moment: the mount must not end over it.
            usleep(10000);
            continue;
        }
        if (count <= 0) return 0;
        if ((size_t)count < sizeof(struct fuse_in_header)) continue;
        memcpy(&worker.unique, (char *)worker.request.mem + offsetof(struct fuse_in_header, unique), sizeof(uint64_t));
        worker.device = fuse_session_fd(session);
        if (worker.writes && worker.touched != worker.request.mem) {
            worker.touched = worker.request.mem;
            touch(worker.request.mem, (size_t)count, malloc_usable_size(worker.request.mem));
        }
        fuse_session_process_buf(session, &worker.request);
        return 1;
    }
}

static void drop_pipe(void) {
    if (worker.capacity <= 0) return;
    close(worker.reading_end);
    close(worker.writing_end);
    worker.capacity = 0;
}

void clinux_fuse_thread_done(void) {
    drop_pipe();
    free(worker.request.mem);
    free(worker.buffer);
    memset(&worker, 0, sizeof worker);
}

void *clinux_fuse_buffer(void) {
    if (worker.buffer == NULL && posix_memalign(&worker.buffer, PAGE, CLINUX_FUSE_BUFFER) != 0) worker.buffer = NULL;
    return worker.buffer;
}

// A pipe that never blocks: what does not fit is an error, not a thread that waits for itself.
static int make_pipe(void) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
    (void)fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
    worker.capacity = fcntl(ends[1], F_GETPIPE_SZ);
    if (worker.capacity < 4 * PAGE) {
        close(ends[0]);
        close(ends[1]);
        worker.capacity = -1;
        return -1;
    }
    worker.slots = (int)(worker.capacity / sysconf(_SC_PAGESIZE));
    worker.reading_end = ends[0];
    worker.writing_end = ends[1];
    return 0;
}

void clinux_fuse_serve(struct fuse_session *session, int writes) {
    worker.writes = writes;
    if (writes) {
        if (clinux_fuse_buffer() != NULL) touch(worker.buffer, 0, CLINUX_FUSE_BUFFER);
        if (worker.capacity == 0) (void)make_pipe();
    }
    while (clinux_fuse_serve_one(session)) {}
}

int clinux_fuse_reply_open(struct fuse_req *request, uint64_t handle, uint32_t flags) {
    struct fuse_open_out answer = {.fh = handle, .open_flags = flags};
    return fuse_reply_buf(request, (const char *)&answer, sizeof answer);
}

int clinux_fuse_reply_begin(size_t length, int *pages) {
    if (worker.capacity < 0 || (worker.capacity == 0 && make_pipe() != 0)) return -1;
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + length),
        .error = 0,
        .unique = worker.unique,
    };
    if (write(worker.writing_end, &header, sizeof header) != (ssize_t)sizeof header) {
        drop_pipe();
        return -1;
    }
    *pages = worker.slots - 1;
    return worker.writing_end;
}

void clinux_fuse_reply_abandon(int only_header) {
    struct fuse_out_header header;
    if (only_header && read(worker.reading_end, &header, sizeof header) == (ssize_t)sizeof header) return;
    drop_pipe();
}

int clinux_fuse_reply_send(struct fuse_req *request, size_t length) {
    size_t total = sizeof(struct fuse_out_header) + length;
    ssize_t moved;
    do {
        moved = splice(worker.reading_end, NULL, worker.device, NULL, total, 0);
    } while (moved < 0 && errno == EINTR);
    if (moved == (ssize_t)total) {
        fuse_reply_none(request);
        return 0;
    }
    int code = moved < 0 ? errno : EIO;
    drop_pipe();
    // The kernel no longer waits for this request (interrupted, or the connection is gone): there is nobody to answer.
    if (code == ENOENT || code == ENODEV) {
        fuse_reply_none(request);
        return 0;
    }
    return code;
}
