internal import CLinux
internal import Glibc
internal import Logging

/// What keeps a server that others' dirty pages wait for alive and going while memory is short.
struct MemoryPressure {
    private let log: Logger

    init(_ log: Logger) { self.log = log }

    /// Applies to the calling thread and to all that it starts later; before privileges are given up. What is not permitted
    /// gets one line in the log.
    func prepare() {
        var refused: [String] = []
        if clinux_io_flusher() != 0 { refused.append("an I/O flusher's memory rules (\(text(errno)))") }
        if clinux_protect_from_oom() != 0 { refused.append("a low oom_score_adj (\(text(errno)))") }
        guard !refused.isEmpty else { return }
        log.notice(
            "not permitted here: \(refused.joined(separator: ", ")); writing under a shortage of memory may be slow or end"
        )
    }

    private func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}
