internal import CLinux
internal import Glibc

/// The pipe on which a server tells the process that started it how the mount went.
///
/// One message: a byte with the exit status, then text (what to print, or the failure's line). The end of the pipe
/// without a message means that the server died.
struct ReadinessPipe: ~Copyable {
    private var reading: Int32
    private var writing: Int32

    /// Makes the pipe. Throws a system failure.
    init() throws(Failure) {
        var ends: [Int32] = [-1, -1]
        guard clinux_make_pipe(&ends, 1 << 16) > 0 else {
            throw Failure(.system, "cannot make a pipe: \(HostPath.reason(errno))")
        }
        (reading, writing) = (ends[0], ends[1])
    }

    deinit {
        if reading >= 0 { close(reading) }
        if writing >= 0 { close(writing) }
    }

    /// In the server: keeps the writing end and gives its descriptor.
    mutating func keepWritingEnd() -> Int32 {
        close(reading)
        reading = -1
        defer { writing = -1 }
        return writing
    }

    /// In the process that waits: what the server said; nil when it ended without a word.
    mutating func message() -> (status: ExitStatus, text: String)? {
        close(writing)
        writing = -1
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(reading, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            bytes += buffer[..<count]
        }
        guard let first = bytes.first, let status = ExitStatus(rawValue: Int32(first)) else { return nil }
        return (status, String(decoding: bytes.dropFirst(), as: UTF8.self))
    }

    /// Writes the message on the end that the server kept, and closes it. Whether somebody still waits for it.
    @discardableResult
    static func send(_ status: ExitStatus, _ text: String, to descriptor: Int32) -> Bool {
        defer { close(descriptor) }
        let line = String(UnicodeScalar(UInt8(truncatingIfNeeded: status.rawValue))) + text
        return Output.write(line, to: descriptor)
    }
}
