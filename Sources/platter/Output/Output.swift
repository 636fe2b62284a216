internal import Glibc

/// The program's standard streams. Nothing else in the project writes to them.
enum Output {
    /// Writes all of `text`, which is what the command was run for, to standard output. Throws with `status` when it cannot
    /// take it (closed, full disk): a truncated answer must not look like a whole one. A pipe that nobody reads any more
    /// is `.brokenPipe`, about which nothing is said.
    static func print(_ text: String, orFail status: ExitStatus = .system) throws(Failure) {
        guard write(text, to: STDOUT_FILENO) else {
            let code = errno
            guard code != EPIPE else { throw Failure(.brokenPipe, "standard output is a pipe that nobody reads") }
            throw Failure(status, "cannot write to standard output: \(reason(code))")
        }
    }

    /// Writes `text` to standard output about what is already done: that it cannot be written is no failure, and gets a
    /// line on standard error unless nobody wanted to read it.
    static func tell(_ text: String) {
        guard !text.isEmpty, !write(text, to: STDOUT_FILENO), errno != EPIPE else { return }
        let code = errno
        report(Failure(.success, "all is done, but standard output does not take the answer: \(reason(code))"))
    }

    private static func reason(_ code: Int32) -> String {
        code == EBADF ? "it is closed" : HostPath.reason(code)
    }

    /// Writes a line about a failure to standard error.
    static func report(_ failure: Failure) {
        _ = write(failure.line, to: STDERR_FILENO)
    }

    /// Writes all of `text` to `descriptor`; false with errno when that fails.
    static func write(_ text: String, to descriptor: Int32) -> Bool {
        let bytes = Array(text.utf8)
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress.map { $0 + done }, $0.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }
}
