/// Declarations in the manner of libfuse's headers, as they differ from version to version: enough of them for the C files
/// of CLinux. They are written for these tests and hold only what platter uses.
struct FakeLibfuse: Sendable, CustomStringConvertible {
    /// The minor version: 10 to 18, or 99 for one that turns everything into macros.
    var minor: Int

    var description: String { "3.\(minor)" }

    static let all = [10, 11, 12, 14, 16, 17, 18, 99].map { FakeLibfuse(minor: $0) }

    /// 3.17 has 64 bits of abilities, set by functions; before, there are 32 in `want`.
    var isWide: Bool { minor >= 17 }

    /// The text of fuse_log.h.
    var log: String {
        """
        #include <stdarg.h>
        enum fuse_log_level { FUSE_LOG_EMERG, FUSE_LOG_ERR = 3, FUSE_LOG_DEBUG = 7 };
        typedef void (*fuse_log_func_t)(enum fuse_log_level level, const char *format, va_list arguments);
        void fuse_set_log_func(fuse_log_func_t function);
        """
    }

    /// The text of fuse_lowlevel.h, which here includes what is in fuse_common.h and fuse_opt.h there.
    var lowLevel: String {
        [head, constants, structures, session, replies].joined(separator: "\n")
    }

    /// Until 3.11, 3.10 is the number 40, and from 3.12 on 312.
    private var head: String {
        """
        #ifndef FUSE_USE_VERSION
        #error FUSE_USE_VERSION not defined
        #endif
        #include <stdbool.h>
        #include <stddef.h>
        #include <stdint.h>
        #include <sys/stat.h>
        #include <sys/statvfs.h>
        #include <sys/types.h>
        #define FUSE_MAKE_VERSION(major, minor) ((major) * \(minor < 12 ? 10 : 100) + (minor))
        #define FUSE_VERSION FUSE_MAKE_VERSION(3, \(minor))
        #if FUSE_USE_VERSION < 35
        #error an old interface, with other types
        #endif
        """
    }

    private var constants: String {
        let one = minor >= 18 ? "1UL" : "1"
        let bits = [
            ("ASYNC_READ", 0), ("EXPORT_SUPPORT", 4), ("SPLICE_READ", 9), ("AUTO_INVAL_DATA", 12), ("ASYNC_DIO", 15),
            ("PARALLEL_DIROPS", 18),
        ]
        var lines = bits.map { "#define FUSE_CAP_\($0.0) (\(one) << \($0.1))" }
        if minor >= 18 { lines.append("#define FUSE_CAP_OVER_IO_URING (1UL << 31)") }
        lines += [("MODE", 0), ("UID", 1), ("GID", 2), ("SIZE", 3)].map {
            "#define FUSE_SET_ATTR_\($0.0) (1 << \($0.1))"
        }
        return lines.joined(separator: "\n")
    }

    private var structures: String {
        // The one that makes everything a macro has dropped the old fields too.
        let narrow = minor == 99 ? "" : "uint32_t capable, want;"
        let wide = isWide ? "uint64_t capable_ext, want_ext;" : ""
        return """
            struct fuse_req; struct fuse_session;
            typedef struct fuse_req *fuse_req_t;
            typedef uint64_t fuse_ino_t;
            struct fuse_args { int argc; char **argv; int allocated; };
            #define FUSE_ARGS_INIT(argc, argv) { argc, argv, 0 }
            struct fuse_conn_info {
                uint32_t max_write, max_background;
                \(narrow)
                \(wide)
            };
            struct fuse_entry_param { fuse_ino_t ino; struct stat attr; double attr_timeout, entry_timeout; };
            struct fuse_file_info { int32_t flags; uint64_t fh; };
            struct fuse_ctx { uid_t uid; gid_t gid; pid_t pid; mode_t umask; };
            struct fuse_buf {
                size_t size; int flags; void *mem; int fd; off_t pos;
                \(isWide ? "size_t mem_size;" : "")
            };
            struct fuse_lowlevel_ops {
                void (*init)(void *user, struct fuse_conn_info *connection);
                \(minor >= 18 ? "void (*statx)(fuse_req_t request);" : "")
            };
            """
    }

    private var session: String {
        let parameters = "struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t size"
        let new =
            isWide
            ? """
            struct libfuse_version { uint32_t major, minor, hotfix, padding; };
            struct fuse_session *fuse_session_new_versioned(\(parameters), struct libfuse_version *version, void *user);
            static inline struct fuse_session *fuse_session_new_fn(\(parameters), void *user) {
                struct libfuse_version version = {3, \(minor), 0, 0};
                return fuse_session_new_versioned(args, op, size, &version, user);
            }
            #define fuse_session_new(args, op, size, user) fuse_session_new_fn(args, op, size, user)
            """ : "struct fuse_session *fuse_session_new(\(parameters), void *user);"
        return new + "\n" + abilities + "\n"
            + declared([
                "int fuse_opt_add_arg(struct fuse_args *args, const char *text)",
                "void fuse_opt_free_args(struct fuse_args *args)",
                "int fuse_session_mount(struct fuse_session *session, const char *path)",
                "void fuse_session_unmount(struct fuse_session *session)",
                "void fuse_session_destroy(struct fuse_session *session)",
                "int fuse_session_fd(\(minor >= 18 ? "const " : "")struct fuse_session *session)",
                "int fuse_session_receive_buf(struct fuse_session *session, struct fuse_buf *buffer)",
                "void fuse_session_process_buf(struct fuse_session *session, const struct fuse_buf *buffer)",
            ])
    }

    /// Inline in 3.17.1, a function of the library later; nothing before.
    private var abilities: String {
        guard isWide else { return "" }
        let set = "bool fuse_set_feature_flag(struct fuse_conn_info *info, uint64_t flag)"
        let unset = "void fuse_unset_feature_flag(struct fuse_conn_info *info, uint64_t flag)"
        guard minor == 17 else { return declared([set, unset]) }
        return """
            static inline \(set) {
                if (!(info->capable_ext & flag)) return false;
                info->want_ext |= flag;
                return true;
            }
            static inline \(unset) { info->want_ext &= ~flag; }
            """
    }

    private var replies: String {
        declared([
            "void *fuse_req_userdata(fuse_req_t request)",
            "const struct fuse_ctx *fuse_req_ctx(fuse_req_t request)",
            "int fuse_reply_err(fuse_req_t request, int code)",
            "void fuse_reply_none(fuse_req_t request)",
            "int fuse_reply_entry(fuse_req_t request, const struct fuse_entry_param *entry)",
            "int fuse_reply_attr(fuse_req_t request, const struct stat *attributes, double timeout)",
            "int fuse_reply_buf(fuse_req_t request, const char *bytes, size_t count)",
            "int fuse_reply_open(fuse_req_t request, const struct fuse_file_info *info)",
            "int fuse_reply_write(fuse_req_t request, size_t count)",
            "int fuse_reply_lseek(fuse_req_t request, off_t offset)",
            "int fuse_reply_statfs(fuse_req_t request, const struct statvfs *facts)",
            "size_t fuse_add_direntry(fuse_req_t r, char *b, size_t n, const char *t, const struct stat *a, off_t o)",
            "size_t fuse_add_direntry_plus(fuse_req_t r, char *b, size_t n, const char *t, "
                + "const struct fuse_entry_param *e, off_t o)",
            "int fuse_lowlevel_notify_inval_inode(struct fuse_session *s, fuse_ino_t i, off_t o, off_t n)",
            "int fuse_lowlevel_notify_inval_entry(struct fuse_session *s, fuse_ino_t i, const char *t, size_t n)",
        ])
    }

    /// Functions as they are, or, in the version that spares none, under another name and a macro.
    private func declared(_ functions: [String]) -> String {
        functions.map { function in
            guard minor == 99, let parenthesis = function.firstIndex(of: "("),
                let start = function[..<parenthesis].lastIndex(where: { $0 == " " || $0 == "*" })
            else { return function + ";" }
            let name = function[function.index(after: start)..<parenthesis]
            return "\(function[...start])\(name)_399\(function[parenthesis...]);\n"
                + "#define \(name)(...) \(name)_399(__VA_ARGS__)"
        }.joined(separator: "\n")
    }
}
