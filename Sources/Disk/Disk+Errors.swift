internal import Bytes
internal import Logging
internal import Storage
internal import Synchronization

/// Writes what readers will see as EIO to the log, without letting a bad disk fill it.
///
/// The first failures of an image (20 of reads and writes, one of commits) each get a line, then one line per 10 s with the
/// number of those left out.
final class FailureReporter: Sendable {
    private struct State {
        var reported = 0
        var suppressed = 0
        var last = ContinuousClock.now
    }

    private static let interval = Duration.seconds(10)

    private let log: Logger
    private let plenty: Int
    private let state = Mutex(State())

    init(_ log: Logger, plenty: Int = 20) {
        self.log = log
        self.plenty = plenty
    }

    /// One line for `error` of `action` on the disk `name`, `position` bytes from its start, unless there were many.
    func report(_ error: ImageError, of action: StaticString = "read", on name: String, at position: UInt64) {
        report("\(name): \(action) failed at byte \(position) of the disk: \(error)")
    }

    /// One line, unless there were many.
    func report(_ line: @autoclosure () -> String) {
        let left: Int? = state.withLock { state in
            let now = ContinuousClock.now
            guard state.reported < plenty || now - state.last >= Self.interval else {
                state.suppressed += 1
                return nil
            }
            defer { state.suppressed = 0 }
            state.reported += 1
            state.last = now
            return state.suppressed
        }
        guard let left else { return }
        let more = left > 0 ? " (and \(left.counted("failure")) before it, not reported)" : ""
        log.error("\(line())\(more)")
    }
}

extension Disk {
    /// Reports a failure `position` bytes into this view, and gives it back to be thrown.
    func report(_ error: ImageError, of action: StaticString = "read", at position: UInt64) -> ImageError {
        let named = error.named(layers.first?.path ?? name)
        // Whoever looks at an image without its parent knows that it is missing.
        if error.kind == .missing, missingParent != nil { return named }
        open.reporter.report(named, of: action, on: name, at: position)
        return named
    }

    /// Names the failure of a commit, and reports it where it is for want of room. Every other one has poisoned the image,
    /// which says more.
    func reportCommit(_ error: ImageError) -> ImageError {
        let named = error.named(layers.first?.path ?? name)
        if error.kind == .noSpace {
            writer?.reporter.report("\(named); what was written last is not safe until there is room")
        }
        return named
    }
}
