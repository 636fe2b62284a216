// What Swift's Glibc module does not show: calls and constants behind _GNU_SOURCE, variadic functions, and the C
// side of the FUSE session (CLinuxFuse.h). One-line wrappers; policy lives in Swift.
#ifndef PLATTER_CLINUX_H
#define PLATTER_CLINUX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// The facts of a file that identify and size it, from statx(2).
struct clinux_file_facts {
    uint64_t device;
    uint64_t inode;
    int64_t birth_ns;    // birth time, or change time where the filesystem keeps none
    int64_t change_ns;
    int64_t modify_ns;
    uint64_t size;
    uint64_t blocks;     // of 512 bytes
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
};

// An argument of the program, its name first, as the system gave it; NULL behind the last. Swift reads them from /proc,
// which rescue shells and chroots may not have.
const char *clinux_argument(int index);

// statx(2) of an open descriptor. 0, or -1 with errno.
int clinux_facts(int descriptor, struct clinux_file_facts *facts);
// statx(2) of a name below a directory (AT_FDCWD allowed), without following a final symbolic link if `nofollow`.
int clinux_facts_at(int directory, const char *path, int nofollow, struct clinux_file_facts *facts);
// statx(2) of a name below a directory as far as the kernel knows without asking whoever serves the filesystem
// (AT_STATX_DONT_SYNC); device and inode are always right.
int clinux_known_facts_at(int directory, const char *path, struct clinux_file_facts *facts);

// The same of an open descriptor.
int clinux_known_facts_of(int descriptor, struct clinux_file_facts *facts);

// openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS, O_CLOEXEC added, and for reading O_NOATIME where the host
// permits it. A descriptor, or -1 with errno.
int clinux_open_beneath(int directory, const char *path, int flags);
// The same for what may be a device, whose mere opening can have effects: looked at first, and opened only where it is a
// regular file or a block device. -1 with errno, ENODEV for everything else.
int clinux_open_device_beneath(int directory, const char *path, int flags);
// The same of a directory for reading its names; not across mounts where that is said.
int clinux_open_folder_beneath(int directory, const char *path, int stays_on_filesystem);
// openat(2) with O_CLOEXEC and O_NOATIME added as above; for Swift, which cannot call variadic functions.
int clinux_open_at(int directory, const char *path, int flags);

// A directory with O_PATH | O_DIRECTORY | O_CLOEXEC, as a place to open beneath; with `plainly` no symbolic link may be in
// the path (RESOLVE_NO_SYMLINKS). A descriptor, or -1 with errno.
int clinux_open_directory(const char *path, int plainly);

// A regular file without a name in the filesystem of a directory, open for reading and writing (O_TMPFILE); it is gone
// when it is closed unless it gets a name. A descriptor, or -1 with errno.
int clinux_make_unnamed(int directory, uint32_t mode);
// A new file of that name, open for reading and writing (O_CREAT | O_EXCL). A descriptor, or -1 with errno.
int clinux_make_file(int directory, const char *name, uint32_t mode);
// Gives an open file without a name its first one (linkat(2) through /proc); never replaces a file. 0, or -1 with errno.
int clinux_give_name(int descriptor, int directory, const char *name);
// renameat2(2) with RENAME_NOREPLACE, or link and unlink where the filesystem lacks that. 0, or -1 with errno.
int clinux_rename_new(int directory, const char *from, const char *to);

// lseek(2) with SEEK_DATA and SEEK_HOLE. The offset, or -1 with errno.
int64_t clinux_seek_data(int descriptor, int64_t offset);
int64_t clinux_seek_hole(int descriptor, int64_t offset);

// fallocate(2) with FALLOC_FL_KEEP_SIZE: gives the space of a range back, or makes it zeros without giving it back.
// 0, or -1 with errno.
int clinux_punch_hole(int descriptor, int64_t offset, int64_t count);
int clinux_zero_range(int descriptor, int64_t offset, int64_t count);

// fallocate(2) without flags: gives a range space on the host, growing the file where it ends before. 0, or -1 with
// errno.
int clinux_allocate(int descriptor, int64_t offset, int64_t count);
// fallocate(2) with any mode, which Swift cannot see behind _GNU_SOURCE. 0, or -1 with errno.
int clinux_fallocate(int descriptor, int mode, int64_t offset, int64_t count);

// sync_file_range(2) with SYNC_FILE_RANGE_WRITE over the whole file: has the host begin to write out what it keeps in memory.
// 0, or -1 with errno.
int clinux_start_writeback(int descriptor);

// posix_fadvise(2) with POSIX_FADV_DONTNEED over the whole file: drops what the host keeps of it in memory and has written.
// 0, or an error number.
int clinux_forget_pages(int descriptor);

// The size in bytes of a block device (BLKGETSIZE64). 0, or -1 with errno.
int clinux_block_device_size(int descriptor, uint64_t *size);

// The st_dev of the filesystem whose file an open loop device shows (LOOP_GET_STATUS64). 0, or -1 with errno.
int clinux_loop_device(int descriptor, uint64_t *device);

// Takes a shared open-file-description lock on one byte (F_OFD_SETLK, F_RDLCK). 0, or -1 with errno.
int clinux_lock_byte(int descriptor, int64_t byte);
// Releases the lock on one byte.
int clinux_unlock_byte(int descriptor, int64_t byte);
// Asks whether another description holds a lock on one byte that an exclusive one would meet (F_OFD_GETLK).
// 1 yes, 0 no, -1 with errno.
int clinux_test_byte(int descriptor, int64_t byte);

// splice(2) from a file at an offset into a pipe, never with SPLICE_F_MOVE. A full pipe is EAGAIN, never a wait: the
// caller is the one who would empty it. Bytes moved, or -1 with errno.
ssize_t clinux_splice_to_pipe(int file, int64_t offset, int pipe, size_t count);
// A sparse anonymous file of `size` bytes (memfd_create). A descriptor, or -1 with errno.
int clinux_zero_file(size_t size);
// A close-on-exec pipe of at least `bytes` bytes if the system lets it grow. Its real capacity, or -1 with errno.
int clinux_make_pipe(int ends[2], int bytes);

// Names the program for syslog(3), at most 31 bytes, and connects to it. 0, or -1 with errno when nobody listens.
int clinux_syslog_open(const char *name);
// Writes one line through syslog(3), with the priority of a LOG_ constant.
void clinux_syslog(int priority, const char *line);

// A descriptor that becomes readable when the process ends (pidfd_open), or -1 with errno.
int clinux_pidfd(pid_t process);

// Closes every open descriptor from `first` to `last`, both included.
void clinux_close_range(int first, int last);

// Lets the process open as many files as it ever may: the soft limit becomes the hard one. 0, or -1 with errno.
int clinux_raise_descriptor_limit(void);

#include "CLinuxFuse.h"

#endif
