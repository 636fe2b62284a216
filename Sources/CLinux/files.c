#include "CLinux.h"

#ifndef _GNU_SOURCE
#error "Package.swift must define _GNU_SOURCE for this target"
#endif

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int64_t nanoseconds(struct statx_timestamp stamp) {
    return (int64_t)((uint64_t)stamp.tv_sec * 1000000000u + stamp.tv_nsec);
}

static int facts_of(int directory, const char *path, int flags, struct clinux_file_facts *facts) {
    struct statx buffer;
    if (statx(directory, path, flags, STATX_BASIC_STATS | STATX_BTIME, &buffer) != 0) return -1;
    int64_t changed = nanoseconds(buffer.stx_ctime);
    facts->device = makedev(buffer.stx_dev_major, buffer.stx_dev_minor);
    facts->inode = buffer.stx_ino;
    facts->birth_ns = (buffer.stx_mask & STATX_BTIME) ? nanoseconds(buffer.stx_btime) : 0;
    facts->change_ns = changed;
    facts->modify_ns = nanoseconds(buffer.stx_mtime);
    facts->size = buffer.stx_size;
    facts->blocks = buffer.stx_blocks;
    facts->mode = buffer.stx_mode;
    facts->uid = buffer.stx_uid;
    facts->gid = buffer.stx_gid;
    return 0;
}

int clinux_facts(int descriptor, struct clinux_file_facts *facts) {
    return facts_of(descriptor, "", AT_EMPTY_PATH, facts);
}

int clinux_facts_at(int directory, const char *path, int nofollow, struct clinux_file_facts *facts) {
    return facts_of(directory, path, nofollow ? AT_SYMLINK_NOFOLLOW : 0, facts);
}

int clinux_known_facts_at(int directory, const char *path, struct clinux_file_facts *facts) {
    return facts_of(directory, path, AT_STATX_DONT_SYNC, facts);
}

int clinux_known_facts_of(int descriptor, struct clinux_file_facts *facts) {
    return facts_of(descriptor, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, facts);
}

// Whoever only reads leaves the access time alone. The host permits that to a file's owner and to root; for everybody else
// it says EPERM, and they try again without.
static int quiet(int flags) {
    return (flags & (O_ACCMODE | O_PATH | O_CREAT)) == O_RDONLY ? flags | O_NOATIME : flags;
}

static int open_beneath(int directory, const char *path, int flags) {
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int clinux_open_beneath(int directory, const char *path, int flags) {
    int descriptor = open_beneath(directory, path, quiet(flags));
    if (descriptor >= 0 || errno != EPERM || quiet(flags) == flags) return descriptor;
    return open_beneath(directory, path, flags);
}

int clinux_open_device_beneath(int directory, const char *path, int flags) {
    int found = clinux_open_beneath(directory, path, O_PATH);
    if (found < 0) return -1;
    struct stat facts;
    int result = -1;
    if (fstat(found, &facts) == 0) {
        if (S_ISREG(facts.st_mode) || S_ISBLK(facts.st_mode)) {
            char again[32];
            snprintf(again, sizeof again, "/proc/self/fd/%d", found);
            result = clinux_open_at(AT_FDCWD, again, flags);
        } else {
            errno = ENODEV;
        }
    }
    int code = errno;
    close(found);
    errno = code;
    return result;
}

int clinux_open_folder_beneath(int directory, const char *path, int stays_on_filesystem) {
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC | O_NOATIME,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (stays_on_filesystem ? RESOLVE_NO_XDEV : 0u),
    };
    int descriptor = (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
    if (descriptor >= 0 || errno != EPERM) return descriptor;
    how.flags &= ~(uint64_t)O_NOATIME;
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int clinux_open_at(int directory, const char *path, int flags) {
    int descriptor = openat(directory, path, quiet(flags) | O_CLOEXEC);
    if (descriptor >= 0 || errno != EPERM || quiet(flags) == flags) return descriptor;
    return openat(directory, path, flags | O_CLOEXEC);
}

int clinux_open_directory(const char *path, int plainly) {
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = plainly ? RESOLVE_NO_SYMLINKS : 0,
    };
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

int clinux_make_unnamed(int directory, uint32_t mode) {
    return openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, (mode_t)mode);
}

int clinux_make_file(int directory, const char *name, uint32_t mode) {
    return openat(directory, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, (mode_t)mode);
}

int clinux_give_name(int descriptor, int directory, const char *name) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW);
}

int clinux_rename_new(int directory, const char *from, const char *to) {
    if (renameat2(directory, from, directory, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    if (linkat(directory, from, directory, to, 0) != 0) return -1;
    return unlinkat(directory, from, 0);
}

int64_t clinux_seek_data(int descriptor, int64_t offset) { return lseek(descriptor, offset, SEEK_DATA); }

int64_t clinux_seek_hole(int descriptor, int64_t offset) { return lseek(descriptor, offset, SEEK_HOLE); }

int clinux_punch_hole(int descriptor, int64_t offset, int64_t count) {
    return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
}

int clinux_zero_range(int descriptor, int64_t offset, int64_t count) {
    return fallocate(descriptor, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, count);
}

int clinux_allocate(int descriptor, int64_t offset, int64_t count) { return fallocate(descriptor, 0, offset, count); }

int clinux_fallocate(int descriptor, int mode, int64_t offset, int64_t count) {
    return fallocate(descriptor, mode, offset, count);
}

int clinux_start_writeback(int descriptor) {
    return sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int clinux_forget_pages(int descriptor) { return posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED); }

int clinux_loop_device(int descriptor, uint64_t *device) {
    struct loop_info64 facts;
    if (ioctl(descriptor, LOOP_GET_STATUS64, &facts) != 0) return -1;
    *device = facts.lo_device;
    return 0;
}

int clinux_block_device_size(int descriptor, uint64_t *size) { return ioctl(descriptor, BLKGETSIZE64, size); }

static struct flock one_byte(short type, int64_t byte) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return lock;
}

int clinux_lock_byte(int descriptor, int64_t byte) {
    struct flock lock = one_byte(F_RDLCK, byte);
    return fcntl(descriptor, F_OFD_SETLK, &lock);
}

int clinux_unlock_byte(int descriptor, int64_t byte) {
    struct flock lock = one_byte(F_UNLCK, byte);
    return fcntl(descriptor, F_OFD_SETLK, &lock);
}

int clinux_test_byte(int descriptor, int64_t byte) {
    struct flock lock = one_byte(F_WRLCK, byte);
    if (fcntl(descriptor, F_OFD_GETLK, &lock) != 0) return -1;
    return lock.l_type != F_UNLCK;
}

ssize_t clinux_splice_to_pipe(int file, int64_t offset, int pipe, size_t count) {
    off64_t position = offset;
    return splice(file, &position, pipe, NULL, count, SPLICE_F_NONBLOCK);
}

int clinux_zero_file(size_t size) {
    int descriptor = memfd_create("platter-zeros", MFD_CLOEXEC);
    if (descriptor < 0) return -1;
    if (ftruncate(descriptor, (off_t)size) != 0) {
        int saved = errno;
        close(descriptor);
        errno = saved;
        return -1;
    }
    return descriptor;
}

int clinux_make_pipe(int ends[2], int bytes) {
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    fcntl(ends[1], F_SETPIPE_SZ, bytes);
    return fcntl(ends[1], F_GETPIPE_SZ);
}
