internal import CLinux
internal import Glibc
internal import Logging
internal import Synchronization

/// Where log lines go. The place may change while the program runs: a daemon says what it has to say to standard
/// error until it is mounted, and to syslog afterwards.
final class LogSink: Sendable {
    /// A place for lines.
    enum Target: Sendable {
        case standardError
        case syslog
        /// A file, open for appending.
        case descriptor(Int32)
    }

    private let target: Mutex<Target>

    init(_ target: Target) { self.target = Mutex(target) }

    /// Connects to syslog, to be done while the process may still do so. Whether somebody listens there: containers often
    /// have no log.
    @discardableResult
    func prepareSyslog() -> Bool { clinux_syslog_open("platter") == 0 }

    /// Sends all further lines to another place.
    func redirect(to next: Target) {
        if case .syslog = next { prepareSyslog() }
        target.withLock { $0 = next }
    }

    /// Writes one line.
    func write(_ level: Logger.Level, _ message: String) {
        let line = Printable.line(message)
        switch target.withLock({ $0 }) {
        case .standardError: _ = Output.write("platter: \(line)\n", to: STDERR_FILENO)
        case .descriptor(let file): _ = Output.write("\(Self.timestamp()) \(level) \(line)\n", to: file)
        case .syslog: clinux_syslog(Self.priority(of: level), line)
        }
    }

    private static func priority(of level: Logger.Level) -> Int32 {
        switch level {
        case .trace, .debug: LOG_DEBUG
        case .info: LOG_INFO
        case .notice: LOG_NOTICE
        case .warning: LOG_WARNING
        case .error: LOG_ERR
        case .critical: LOG_CRIT
        }
    }

    /// The time as "2026-11-21T02:47:28Z".
    private static func timestamp() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        var buffer = [CChar](repeating: 0, count: 32)
        let count = strftime(&buffer, buffer.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Loggers for the layers below, which know swift-log only.
enum Log {
    /// A logger that writes to `sink` from `level` on.
    static func make(_ sink: LogSink, level: Logger.Level) -> Logger {
        var logger = Logger(label: "platter") { _ in LineHandler(sink: sink) }
        logger.logLevel = level
        return logger
    }

    /// A logger with a place of its own.
    static func make(_ target: LogSink.Target, level: Logger.Level) -> Logger {
        make(LogSink(target), level: level)
    }
}

/// One line a message: the text, and the metadata behind it.
private struct LineHandler: LogHandler {
    let sink: LogSink
    var logLevel = Logger.Level.notice
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { _, new in new }
        let details = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        sink.write(event.level, "\(event.message)\(details)")
    }
}
