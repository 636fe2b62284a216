internal import Glibc

/// Other programs.
enum Program {
    /// Runs a program found in PATH or in the system's directories, with standard streams from and to /dev/null, and
    /// returns its exit status; nil when it cannot be started.
    static func run(_ arguments: [String]) -> Int32? {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        for descriptor in STDOUT_FILENO...STDERR_FILENO {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_WRONLY, 0)
        }
        var copies: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for copy in copies { free(copy) } }
        // A mount helper has no PATH.
        let found = ["/usr/bin/", "/bin/", "/usr/local/bin/"].map { $0 + arguments[0] }.first { access($0, X_OK) == 0 }
        var pid: pid_t = 0
        guard let found, posix_spawn(&pid, found, &actions, nil, &copies, environ) == 0 else { return nil }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { return nil }
        }
        return status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + (status & 0x7F)
    }
}
