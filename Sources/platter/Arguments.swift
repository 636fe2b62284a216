internal import Glibc

/// The command line as the system gives it.
enum Arguments {
    /// All arguments, the program's name first. Names are text in the rest of the program, so bytes that are no UTF-8
    /// are refused rather than changed.
    static func ofProcess() throws(Failure) -> [String] {
        var result: [String] = []
        for index in 0..<Int(CommandLine.argc) {
            guard let pointer = CommandLine.unsafeArgv[index] else { break }
            guard let text = String(validatingCString: pointer) else {
                throw Failure(
                    .usage,
                    "\(String(cString: pointer)): the name is not UTF-8; mount its directory, which shows such names as they are"
                )
            }
            result.append(text)
        }
        return result
    }
}

/// Descriptors 0, 1 and 2 as a program expects them.
enum StandardStreams {
    /// Opens /dev/null on those that are closed: mount helpers start programs without standard input, and the first
    /// file that is opened would become it.
    static func complete() {
        for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
            _ = open("/dev/null", descriptor == STDIN_FILENO ? O_RDONLY : O_WRONLY)
        }
        signal(SIGPIPE, SIG_IGN)
        // A file at the limit of the process (ulimit -f) is an error to the writer and not the end of the server.
        signal(SIGXFSZ, SIG_IGN)
    }

    /// Puts /dev/null in the place of all three, or of the first two, for a server that nobody watches.
    static func detach(keepingErrors: Bool) {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        guard null >= 0 else { return }
        for descriptor in STDIN_FILENO...(keepingErrors ? STDOUT_FILENO : STDERR_FILENO) { dup2(null, descriptor) }
        close(null)
    }
}
