internal import CLinux
internal import Glibc

/// What keeps a server that others' dirty pages wait for alive and going while memory is short.
enum MemoryPressure {
    /// Applies to the calling thread and to all that it starts later; before privileges are given up. Returns the line for the
    /// log about what is not permitted; nil where all is.
    static func prepare() -> String? {
        var refused: [String] = []
        if clinux_io_flusher() != 0 { refused.append("an I/O flusher's memory rules (\(text(errno)))") }
        if clinux_protect_from_oom() != 0 { refused.append("a low oom_score_adj (\(text(errno)))") }
        guard !refused.isEmpty else { return nil }
        return "not permitted here: \(refused.joined(separator: ", ")); "
            + "writing under a shortage of memory may be slow or end"
    }

    private static func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}
