internal import CLinux
internal import Glibc

/// Turns the program into a server behind the terminal: fork first, while there is only one thread, and let the
/// process that the user sees wait for how the mount went.
enum Daemon {
    /// Runs `serve` in a child of its own session and returns in the parent with the child's message.
    ///
    /// `serve` gets the descriptor for `ReadinessPipe.send`; the child exits with what it returns.
    static func start(_ serve: (Int32) -> ExitStatus) throws(Failure) -> ExitStatus {
        var pipe = try ReadinessPipe()
        let child = fork()
        guard child >= 0 else {
            throw Failure(.system, "cannot start a process: \(HostPath.reason(errno))")
        }
        guard child > 0 else {
            let descriptor = pipe.keepWritingEnd()
            setsid()
            _exit(serve(descriptor).rawValue)
        }
        guard let (status, text) = pipe.message() else {
            throw Failure(.mount, "the server \(describeEnd(of: child)) before the mount answered")
        }
        guard status == .success else {
            // The child's own words, already a whole line.
            throw Failure(status, text)
        }
        Output.tell(text)
        return .success
    }

    private static func describeEnd(of child: pid_t) -> String {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 {
            guard errno == EINTR else { return "ended" }
        }
        let signal = status & 0x7F
        return signal == 0 ? "ended with status \(status >> 8 & 0xFF)" : "was killed by signal \(signal)"
    }

    /// Closes every descriptor above standard error that was inherited and is not in `keeping`.
    static func closeInherited(keeping: [Int32]) {
        var first = STDERR_FILENO + 1
        for kept in keeping.filter({ $0 > STDERR_FILENO }).sorted() {
            if kept > first { clinux_close_range(first, kept - 1) }
            first = max(first, kept + 1)
        }
        clinux_close_range(first, Int32.max)
    }
}
