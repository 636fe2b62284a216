internal import Bytes
internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization
internal import Testing

extension DiskOptions {
    /// Options whose log goes nowhere.
    static var quiet: DiskOptions { DiskOptions(log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) }

    /// Options whose log goes into `lines`.
    static func logging(into lines: LogLines) -> DiskOptions {
        DiskOptions(log: Logger(label: "test") { _ in RecordingHandler(lines: lines) })
    }
}

/// What was logged.
final class LogLines: Sendable {
    private let lines = Mutex<[String]>([])

    var all: [String] { lines.withLock { $0 } }

    func append(_ line: String) { lines.withLock { $0.append(line) } }
}

private struct RecordingHandler: LogHandler {
    let lines: LogLines
    var metadata = Logger.Metadata()
    var logLevel = Logger.Level.info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { lines.append("\(event.level): \(event.message)") }
}

extension Disk {
    /// The bytes of `range`, for comparing.
    func content(_ range: ByteRange) throws -> [UInt8] {
        var result = [UInt8](repeating: 0xA5, count: Int(range.length))
        try result.withUnsafeMutableBytes { try read(range, into: $0) }
        return result
    }

    /// All of the disk.
    func content() throws -> [UInt8] { try content(ByteRange(0, to: size)) }
}

/// The error that `body` throws; a test failure where it throws none.
func failure<Result>(_ body: () throws -> Result) throws -> ImageError {
    try #require(throws: ImageError.self) { try body() }
}

/// A pipe and what came out of it.
final class Pipe {
    private var ends: [Int32] = [-1, -1]
    let pages: Int

    init(bytes: Int32 = 1 << 20) throws {
        let capacity = clinux_make_pipe(&ends, bytes)
        try #require(capacity > 0)
        pages = Int(capacity) / 4096
    }

    deinit { for end in ends { close(end) } }

    var writer: PipeWriter { PipeWriter(descriptor: ends[1]) }

    /// Everything in the pipe now.
    func drain() throws -> [UInt8] {
        var waiting: Int32 = 0
        try #require(ioctl(ends[0], UInt(FIONREAD), &waiting) == 0)
        var result = [UInt8](repeating: 0, count: Int(waiting))
        var done = 0
        while done < result.count {
            let count = result.withUnsafeMutableBytes {
                Glibc.read(ends[0], $0.baseAddress.map { $0 + done }, $0.count - done)
            }
            try #require(count > 0)
            done += count
        }
        return result
    }
}

/// A thread of the host: what serves requests in earnest, with no help from a pool.
final class Thread: Sendable {
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private let id: pthread_t

    init(_ run: @escaping @Sendable () -> Void) {
        var id = pthread_t()
        let body = Unmanaged.passRetained(Body(run)).toOpaque()
        let code = pthread_create(
            &id, nil,
            { argument in
                if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            }, body)
        precondition(code == 0, "cannot start a thread")
        self.id = id
    }

    func join() { pthread_join(id, nil) }
}
