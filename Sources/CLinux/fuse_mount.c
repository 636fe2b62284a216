// The attributes of a mount that the kernel keeps outside it.
#include "CLinuxFuse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

const int clinux_path_only = O_PATH;
const int clinux_past_cache = O_DIRECT;

// AT_STATX_DONT_SYNC keeps the kernel from asking the server: a mount that nobody serves yet, or that hangs, answers.
int clinux_mount_device(const char *path, uint64_t *device) {
    struct statx facts;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    if (statx(AT_FDCWD, path, flags, 0, &facts) != 0) return -1;
    *device = makedev(facts.stx_dev_major, facts.stx_dev_minor);
    return 0;
}

int clinux_is_mount_root(const char *path) {
    struct statx facts;
    if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0, &facts) != 0) return -1;
    return (facts.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

int clinux_filesystem_type(const char *path, int64_t *type) {
    struct statfs facts;
    if (statfs(path, &facts) != 0) return -1;
    *type = facts.f_type;
    return 0;
}

int clinux_is_remote(int descriptor) {
    struct statfs facts;
    if (fstatfs(descriptor, &facts) != 0) return 0;
    switch ((uint32_t)facts.f_type) {
    case 0x6969:      // NFS
    case 0x517B:      // SMB
    case 0xFF534D42:  // CIFS
    case 0xFE534D42:  // SMB2
    case 0x01021997:  // 9P
    case 0x65735546:  // FUSE, virtiofs
    case 0x00C36400:  // Ceph
    case 0x5346414F:  // AFS
    case 0x6B414653:  // kAFS
    case 0x01161970:  // GFS2
    case 0x7461636F:  // OCFS2
    case 0x786F4256:  // VirtualBox shared folders
    case 0xBACBACBC:  // VMware shared folders
        return 1;
    default: return 0;
    }
}

// The control filesystem need not be mounted: root makes an instance of its own that no path leads to.
static int control_root(void) {
    int context = (int)syscall(SYS_fsopen, "fusectl", 1u /* FSOPEN_CLOEXEC */);
    if (context < 0) return -1;
    int root = -1;
    if (syscall(SYS_fsconfig, context, 6u /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0)
        root = (int)syscall(SYS_fsmount, context, 1u /* FSMOUNT_CLOEXEC */, 0u);
    int code = errno;
    close(context);
    errno = code;
    return root;
}

int clinux_abort_descriptor(uint64_t device) {
    char path[64];
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", minor(device));
    int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (descriptor >= 0 || errno != ENOENT) return descriptor;
    int root = control_root();
    if (root < 0) return -1;
    snprintf(path, sizeof path, "%u/abort", minor(device));
    descriptor = openat(root, path, O_WRONLY | O_CLOEXEC);
    int code = errno;
    close(root);
    errno = code;
    return descriptor;
}

int clinux_readahead_descriptor(uint64_t device) {
    char path[64];
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", major(device), minor(device));
    return open(path, O_WRONLY | O_CLOEXEC);
}
