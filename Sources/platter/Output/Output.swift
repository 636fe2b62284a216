internal import Glibc

/// The program's standard streams. Nothing else in the project writes to them.
enum Output {
    /// Writes all of `text` to standard output. Throws when it cannot take it (closed pipe, full disk): a truncated
    /// answer must not look like a whole one.
    static func print(_ text: String) throws(Failure) {
        guard write(text, to: STDOUT_FILENO) else {
            throw Failure(.system, "cannot write to standard output: \(String(cString: strerror(errno)))")
        }
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
