internal import CLinux
internal import Glibc

/// The command line as the system gives it.
enum Arguments {
    /// All arguments, the program's name first. Names are text in the rest of the program, so bytes that are no UTF-8
    /// are refused rather than changed.
    static func ofProcess() throws(Failure) -> [String] {
        var result: [String] = []
        var index: Int32 = 0
        while let pointer = clinux_argument(index) {
            index += 1
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
        // Standard output for reading: who prints there learns that it was closed, as without this.
        for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
            _ = nowhere(descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY)
        }
        signal(SIGPIPE, SIG_IGN)
        // A file at the limit of the process (ulimit -f) is an error to the writer and not the end of the server.
        signal(SIGXFSZ, SIG_IGN)
    }

    /// Opens /dev/null, or in a root directory without one the place of that directory, through which nothing is read or
    /// written either: a server must not hold the pipe of whoever waits for its words. Landlock allows O_PATH everywhere.
    private static func nowhere(_ flags: Int32) -> Int32 {
        let null = open("/dev/null", flags)
        return null >= 0 ? null : open("/", clinux_path_only | flags & O_CLOEXEC)
    }

    /// Ends the process as one ends that writes into a pipe which nobody reads: by SIGPIPE.
    static func endByPipe() {
        signal(SIGPIPE, SIG_DFL)
        raise(SIGPIPE)
    }

    /// Puts /dev/null in the place of all three, or of the first two, for a server that nobody watches.
    static func detach(keepingErrors: Bool) {
        let null = nowhere(O_RDWR | O_CLOEXEC)
        guard null >= 0 else { return }
        for descriptor in STDIN_FILENO...(keepingErrors ? STDOUT_FILENO : STDERR_FILENO) { dup2(null, descriptor) }
        close(null)
    }
}
