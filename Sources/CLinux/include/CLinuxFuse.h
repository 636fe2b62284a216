// The C side of the FUSE session: every call of libfuse3, the per-thread state of the workers, the helper process that
// unmounts, and the self-restriction of the serving process.
#ifndef PLATTER_CLINUX_FUSE_H
#define PLATTER_CLINUX_FUSE_H

#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sys/types.h>

struct fuse_session;
struct fuse_req;
struct fuse_conn_info;
struct fuse_entry_param;
struct fuse_file_info;
struct fuse_lowlevel_ops;
struct stat;
struct statvfs;

// ---- fuse_calls.c: libfuse's functions for Swift, which calls none of them itself. Where nothing else is said, each
// does and returns what the function of libfuse does that its name ends with.

// A session with the options of a mount as text (those of mount(8), escaped), or NULL. `user` goes to each callback.
struct fuse_session *clinux_fuse_session_new(const char *options, const struct fuse_lowlevel_ops *operations,
                                             void *user);
int clinux_fuse_session_mount(struct fuse_session *session, const char *path);
void clinux_fuse_session_unmount(struct fuse_session *session);
void clinux_fuse_session_destroy(struct fuse_session *session);

// Sets the largest WRITE in bytes, and how many requests may wait that nobody waits for.
void clinux_fuse_limit(struct fuse_conn_info *connection, uint32_t write, uint32_t background);
// What the kernel and we may agree on when a mount begins (the FUSE_CAP_ constants of libfuse).
enum clinux_fuse_ability {
    CLINUX_FUSE_ASYNC_READ,
    CLINUX_FUSE_ASYNC_DIRECT,
    CLINUX_FUSE_PARALLEL_DIRECTORIES,
    CLINUX_FUSE_SPLICE_READ,
    CLINUX_FUSE_EXPORT,
    CLINUX_FUSE_AUTO_INVALIDATE,
    CLINUX_FUSE_IO_URING,
};
// Asks for an ability if the kernel has it, or gives it up. One that this libfuse does not know is not there.
void clinux_fuse_want(struct fuse_conn_info *connection, enum clinux_fuse_ability ability, int wanted);

void *clinux_fuse_req_userdata(struct fuse_req *request);
// The user whose program made the request (fuse_req_ctx).
uint32_t clinux_fuse_caller(struct fuse_req *request);
// Whether SETATTR sets the size, by its mask; whether it sets an owner or a mode.
int clinux_fuse_sets_size(int valid);
int clinux_fuse_sets_owner_or_mode(int valid);
int clinux_fuse_reply_err(struct fuse_req *request, int code);
void clinux_fuse_reply_none(struct fuse_req *request);
int clinux_fuse_reply_entry(struct fuse_req *request, const struct fuse_entry_param *entry);
int clinux_fuse_reply_attr(struct fuse_req *request, const struct stat *attributes, double timeout);
int clinux_fuse_reply_buf(struct fuse_req *request, const char *bytes, size_t count);
// Answers OPENDIR (fuse_reply_open); files are opened by clinux_fuse_reply_open below.
int clinux_fuse_reply_directory(struct fuse_req *request, const struct fuse_file_info *info);
int clinux_fuse_reply_write(struct fuse_req *request, size_t count);
int clinux_fuse_reply_lseek(struct fuse_req *request, off_t offset);
int clinux_fuse_reply_statfs(struct fuse_req *request, const struct statvfs *facts);
size_t clinux_fuse_add_direntry(struct fuse_req *request, char *buffer, size_t room, const char *name,
                                const struct stat *attributes, off_t next);
size_t clinux_fuse_add_direntry_plus(struct fuse_req *request, char *buffer, size_t room, const char *name,
                                     const struct fuse_entry_param *entry, off_t next);
// Has the kernel forget the attributes of a node and its pages in a range (fuse_lowlevel_notify_inval_inode), or a name
// in a directory (fuse_lowlevel_notify_inval_entry). 0, or a negative errno.
int clinux_fuse_notify_inode(struct fuse_session *session, uint64_t node, off_t start, off_t count);
int clinux_fuse_notify_entry(struct fuse_session *session, uint64_t parent, const char *name, size_t length);

// ---- fuse_session.c: requests and replies

// Sends libfuse's own messages to `sink` (a line without its newline) instead of standard error.
void clinux_fuse_log_to(void (*sink)(const char *line));

// Receives and processes one request. 1 when one was processed, 0 when the connection is gone.
int clinux_fuse_serve_one(struct fuse_session *session);
// Receives and processes requests until the connection is gone. With `writes` the buffers and the pipe of the thread are
// made and touched as early as possible: whoever writes back the dirty pages of others must not wait for memory then.
void clinux_fuse_serve(struct fuse_session *session, int writes);
// Gives up what the calling thread keeps for serving: buffers and pipe.
void clinux_fuse_thread_done(void);

// This thread's page-aligned buffer of CLINUX_FUSE_BUFFER bytes, or NULL without memory.
#define CLINUX_FUSE_BUFFER (1 << 20)
void *clinux_fuse_buffer(void);

// How an open file is used by the kernel: the FOPEN_ flags of linux/fuse.h, some of which libfuse 3.14 has no field for.
#define CLINUX_FUSE_DIRECT 1u    // no page cache
#define CLINUX_FUSE_KEEP 2u      // the pages of earlier opens are true
#define CLINUX_FUSE_NO_FLUSH 32u // no FLUSH at close
#define CLINUX_FUSE_PARALLEL 64u // writes past the page cache need no exclusive lock
// Answers OPEN. 0, or a negative errno when whoever opened is gone: no RELEASE will come then.
int clinux_fuse_reply_open(struct fuse_req *request, uint64_t handle, uint32_t flags);

// Starts a reply of `length` bytes to the request that this thread is processing, in the thread's own pipe: the header
// goes in first. Returns the pipe's writing end and sets `pages` to what is free; -1 when there is no pipe.
int clinux_fuse_reply_begin(size_t length, int *pages);
// Sends the header and exactly `length` bytes from the pipe to the kernel and frees the request. 0, or an errno: then
// the request is still unanswered, and the pipe has been thrown away.
int clinux_fuse_reply_send(struct fuse_req *request, size_t length);
// Throws away what was begun: by reading the header back where nothing followed it, otherwise with the whole pipe.
void clinux_fuse_reply_abandon(int only_header);


// ---- fuse_mount.c: the mount and its attributes

// The device number (st_dev) of the mount at `path`, without a request to whoever serves it. 0, or -1 with errno.
int clinux_mount_device(const char *path, uint64_t *device);
// Whether `path` is the root of a mount (STATX_ATTR_MOUNT_ROOT). 1, 0, or -1 with errno.
int clinux_is_mount_root(const char *path);
// Whether the file behind a descriptor lies on a filesystem that other machines change too. 1 or 0.
int clinux_is_remote(int descriptor);
// The type of the filesystem at `path` (statfs f_type). 0, or -1 with errno.
int clinux_filesystem_type(const char *path, int64_t *type);
// A descriptor to write to that aborts the FUSE connection of the mount on `device`, or -1 with errno.
int clinux_abort_descriptor(uint64_t device);
// A descriptor to write the read-ahead of the mount on `device` to (in KiB, as text), or -1 with errno.
int clinux_readahead_descriptor(uint64_t device);

// ---- fuse_helper.c: the process that keeps the privilege to unmount

// Forks the helper for the mount at `path` on `device`. Call before there are threads. Returns the socket to command it
// with and sets `pid`; -1 with errno.
int clinux_helper_start(const char *path, uint64_t device, pid_t *pid);
// Asks the helper for 'd' (detach lazily) or 'f' (force: abort the connection of a mount that is still there). Returns
// 0, also where the mount is on no path any more; or an errno: EBUSY when something else is mounted over it, EPIPE when
// the helper is gone.
int clinux_helper_ask(int socket, char command);

// ---- fuse_restrict.c: what the serving process gives up

// No new privileges by execve. 0, or -1 with errno.
int clinux_no_new_privileges(void);
// Drops every capability except CAP_DAC_READ_SEARCH and, with `writes`, CAP_DAC_OVERRIDE (kept only where they are
// there). 0, or -1 with errno.
int clinux_drop_capabilities(int writes);
// Allows the file system only for reading below `readable`, for reading and writing the files that are there below
// `changeable`, and for everything below `writable` (lists that end with NULL; entries that do not exist are skipped).
// Returns the Landlock version used, 0 when the kernel has none, or -1 with errno.
int clinux_landlock(const char *const *readable, const char *const *changeable, const char *const *writable);
// Forbids execve, ptrace, mounts, modules, and sockets other than AF_UNIX. 0, or -1 with errno.
int clinux_seccomp(void);

// Tells the kernel that threads started from now on write back others' dirty pages: they are not made to wait for
// writeback when they need memory (PR_SET_IO_FLUSHER). 0, or -1 with errno.
int clinux_io_flusher(void);
// Makes the process less likely to be ended when memory runs out. 0, or -1 with errno.
int clinux_protect_from_oom(void);

// ---- fuse_watch.c: noticing changes of directories

// An inotify descriptor, close-on-exec and non-blocking; -1 with errno.
int clinux_watch_open(void);
// Watches the directory behind an open descriptor. The watch number, or -1 with errno.
int clinux_watch_add(int inotify, int directory);
// Ends a watch.
void clinux_watch_remove(int inotify, int watch);
// Calls `each` for every event that can be read now. 0 when there is no more, -1 with errno.
#define CLINUX_WATCH_OVERFLOW 1  // events were lost
#define CLINUX_WATCH_GONE 2      // the watch has ended
#define CLINUX_WATCH_SETTLED 4   // more than bytes has changed, or a writer is done
int clinux_watch_read(int inotify, void *context,
                      void (*each)(void *context, int watch, int what, const char *name, size_t length));

// O_PATH and O_DIRECT, which only exist behind _GNU_SOURCE.
extern const int clinux_path_only;
extern const int clinux_past_cache;

// ---- small calls that Swift cannot make or name

// An eventfd(2), close-on-exec and non-blocking; -1 with errno.
int clinux_event_open(void);
// Makes the eventfd readable.
void clinux_event_signal(int descriptor);
// Makes the eventfd unreadable again.
void clinux_event_clear(int descriptor);
// Starts a thread with all signals blocked. 0 or an errno.
int clinux_thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *argument);

#endif
