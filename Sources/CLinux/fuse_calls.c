// Every call of libfuse that Swift makes. Its headers turn functions into macros and inline functions from one version
// to the next (fuse_session_new in 3.17), which Swift cannot see, and change the types of constants; C sees them all.
#include "CLinuxFuse.h"
#include "fuse_library.h"

#include <errno.h>

// ---- The session

struct fuse_session *clinux_fuse_session_new(const char *options, const struct fuse_lowlevel_ops *operations,
                                             void *user) {
    struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
    struct fuse_session *session = NULL;
    if (fuse_opt_add_arg(&arguments, "platter") == 0 && fuse_opt_add_arg(&arguments, "-o") == 0
        && fuse_opt_add_arg(&arguments, options) == 0)
        session = fuse_session_new(&arguments, operations, sizeof *operations, user);
    fuse_opt_free_args(&arguments);
    return session;
}

int clinux_fuse_session_mount(struct fuse_session *session, const char *path) {
    return fuse_session_mount(session, path);
}

void clinux_fuse_session_unmount(struct fuse_session *session) { fuse_session_unmount(session); }

void clinux_fuse_session_destroy(struct fuse_session *session) { fuse_session_destroy(session); }

// ---- What INIT agrees on

void clinux_fuse_limit(struct fuse_conn_info *connection, uint32_t write, uint32_t background) {
    connection->max_write = write;
    connection->max_background = background;
}

// From 3.17 on there are 64 bits, which only libfuse's own functions may change; before, 32 that everybody may.
static void want(struct fuse_conn_info *connection, uint64_t bit, int wanted) {
#if FUSE_VERSION >= 317
    if (wanted) (void)fuse_set_feature_flag(connection, bit);
    else fuse_unset_feature_flag(connection, bit);
#else
    if (wanted) connection->want |= connection->capable & (uint32_t)bit;
    else connection->want &= ~(uint32_t)bit;
#endif
}

void clinux_fuse_want(struct fuse_conn_info *connection, enum clinux_fuse_ability ability, int wanted) {
    switch (ability) {
    case CLINUX_FUSE_ASYNC_READ: return want(connection, FUSE_CAP_ASYNC_READ, wanted);
    case CLINUX_FUSE_ASYNC_DIRECT: return want(connection, FUSE_CAP_ASYNC_DIO, wanted);
    case CLINUX_FUSE_PARALLEL_DIRECTORIES: return want(connection, FUSE_CAP_PARALLEL_DIROPS, wanted);
    case CLINUX_FUSE_SPLICE_READ: return want(connection, FUSE_CAP_SPLICE_READ, wanted);
    case CLINUX_FUSE_EXPORT: return want(connection, FUSE_CAP_EXPORT_SUPPORT, wanted);
    case CLINUX_FUSE_AUTO_INVALIDATE: return want(connection, FUSE_CAP_AUTO_INVAL_DATA, wanted);
    case CLINUX_FUSE_IO_URING:
#ifdef FUSE_CAP_OVER_IO_URING
        want(connection, FUSE_CAP_OVER_IO_URING, wanted);
#endif
        return;
    }
}

// ---- Requests and replies

void *clinux_fuse_req_userdata(struct fuse_req *request) { return fuse_req_userdata(request); }

uint32_t clinux_fuse_caller(struct fuse_req *request) { return fuse_req_ctx(request)->uid; }

int clinux_fuse_sets_size(int valid) { return (valid & FUSE_SET_ATTR_SIZE) != 0; }

int clinux_fuse_sets_owner_or_mode(int valid) {
    return (valid & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0;
}

int clinux_fuse_reply_err(struct fuse_req *request, int code) { return fuse_reply_err(request, code); }

void clinux_fuse_reply_none(struct fuse_req *request) { fuse_reply_none(request); }

int clinux_fuse_reply_entry(struct fuse_req *request, const struct fuse_entry_param *entry) {
    return fuse_reply_entry(request, entry);
}

int clinux_fuse_reply_attr(struct fuse_req *request, const struct stat *attributes, double timeout) {
    return fuse_reply_attr(request, attributes, timeout);
}

int clinux_fuse_reply_buf(struct fuse_req *request, const char *bytes, size_t count) {
    return fuse_reply_buf(request, bytes, count);
}

int clinux_fuse_reply_directory(struct fuse_req *request, const struct fuse_file_info *info) {
    return fuse_reply_open(request, info);
}

int clinux_fuse_reply_write(struct fuse_req *request, size_t count) { return fuse_reply_write(request, count); }

int clinux_fuse_reply_lseek(struct fuse_req *request, off_t offset) { return fuse_reply_lseek(request, offset); }

int clinux_fuse_reply_statfs(struct fuse_req *request, const struct statvfs *facts) {
    return fuse_reply_statfs(request, facts);
}

size_t clinux_fuse_add_direntry(struct fuse_req *request, char *buffer, size_t room, const char *name,
                                const struct stat *attributes, off_t next) {
    return fuse_add_direntry(request, buffer, room, name, attributes, next);
}

size_t clinux_fuse_add_direntry_plus(struct fuse_req *request, char *buffer, size_t room, const char *name,
                                     const struct fuse_entry_param *entry, off_t next) {
    return fuse_add_direntry_plus(request, buffer, room, name, entry, next);
}

// ---- What the kernel is to forget

int clinux_fuse_notify_inode(struct fuse_session *session, uint64_t node, off_t start, off_t count) {
    return fuse_lowlevel_notify_inval_inode(session, node, start, count);
}

int clinux_fuse_notify_entry(struct fuse_session *session, uint64_t parent, const char *name, size_t length) {
    return fuse_lowlevel_notify_inval_entry(session, parent, name, length);
}
