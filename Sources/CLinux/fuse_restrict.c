// What the serving process gives up before it reads the first byte for anybody else.
#include "CLinuxFuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }

int clinux_drop_capabilities(int writes) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct sets[2];
    if (syscall(SYS_capget, &header, sets) != 0) return -1;
    uint32_t wanted = 1u << CAP_DAC_READ_SEARCH;
    if (writes) wanted |= 1u << CAP_DAC_OVERRIDE;
    uint32_t kept = sets[0].permitted & wanted;
    memset(sets, 0, sizeof sets);
    sets[0].permitted = kept;
    sets[0].effective = kept;
    return (int)syscall(SYS_capset, &header, sets);
}

static const uint64_t read_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
static const uint64_t file_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE
                                    | LANDLOCK_ACCESS_FS_EXECUTE;

static void allow(int rules, const char *path, uint64_t access) {
    int descriptor = open(path, O_PATH | O_CLOEXEC);
    if (descriptor < 0) return;
    struct stat facts;
    if (fstat(descriptor, &facts) == 0 && !S_ISDIR(facts.st_mode)) access &= file_access;
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = descriptor};
    (void)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0u);
    close(descriptor);
}

int clinux_landlock(const char *const *readable, const char *const *changeable, const char *const *writable) {
    int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version <= 0) return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -1;
    // The rights of the first version, all of them: what a later kernel adds stays allowed.
    uint64_t all = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    struct landlock_ruleset_attr attributes = {.handled_access_fs = all};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0u);
    if (rules < 0) return -1;
    for (; *readable != NULL; readable++) allow(rules, *readable, read_access);
    for (; *changeable != NULL; changeable++) allow(rules, *changeable, read_access | LANDLOCK_ACCESS_FS_WRITE_FILE);
    for (; *writable != NULL; writable++) allow(rules, *writable, all & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE);
    int result = (int)syscall(SYS_landlock_restrict_self, rules, 0u);
    int code = errno;
    close(rules);
    errno = code;
    return result == 0 ? version : -1;
}

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

int clinux_io_flusher(void) { return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); }

int clinux_protect_from_oom(void) {
    int descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) return -1;
    ssize_t count = write(descriptor, "-900", 4);
    int code = errno;
    close(descriptor);
    errno = code;
    return count == 4 ? 0 : -1;
}

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef NATIVE_ARCH
#define DENY(number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

int clinux_seccomp(void) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef __x86_64__
        // The x32 numbers name the same calls a second time.
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
#endif
        DENY(__NR_execve), DENY(__NR_execveat), DENY(__NR_ptrace), DENY(__NR_process_vm_readv),
        DENY(__NR_process_vm_writev), DENY(__NR_mount), DENY(__NR_umount2), DENY(__NR_pivot_root), DENY(__NR_chroot),
        DENY(__NR_setns), DENY(__NR_unshare), DENY(__NR_init_module), DENY(__NR_finit_module), DENY(__NR_delete_module),
        DENY(__NR_kexec_load), DENY(__NR_bpf), DENY(__NR_perf_event_open), DENY(__NR_keyctl), DENY(__NR_add_key),
        DENY(__NR_request_key), DENY(__NR_userfaultfd), DENY(__NR_reboot), DENY(__NR_swapon), DENY(__NR_swapoff),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u, &filter);
}
#else
int clinux_seccomp(void) {
    errno = ENOSYS;
    return -1;
}
#endif
