internal import CLinux
internal import Glibc
internal import Logging
internal import Synchronization

/// Notices changes in the directories that the kernel knows, and closes images that nobody uses any more.
final class Watcher: Sendable {
    private struct WeakDirectory {
        weak var directory: HostDirectory?
    }

    private struct State {
        var directories: [Int32: WeakDirectory] = [:]
        var isEnding = false
        var hasComplained = false
    }

    private let context: MountContext
    private let inotify = clinux_watch_open()
    private let event = clinux_event_open()
    private let state = Mutex(State())

    init(_ context: MountContext) { self.context = context }

    deinit {
        if inotify >= 0 { close(inotify) }
        if event >= 0 { close(event) }
    }

    /// Watches a directory. The number of the watch, or -1 where there is none: said once in the log.
    func add(_ directory: HostDirectory, at place: HostPlace) -> Int32 {
        guard inotify >= 0, let descriptor = try? place.open(O_RDONLY | O_DIRECTORY) else { return -1 }
        defer { close(descriptor) }
        // Other machines change such a filesystem as well, and the watch says nothing of it.
        guard clinux_is_remote(descriptor) == 0 else { return -1 }
        // Under the lock, so that an event of a new watch finds its directory.
        let (watch, code) = state.withLock { (state) -> (Int32, Int32) in
            let watch = clinux_watch_add(inotify, descriptor)
            let code = errno
            if watch >= 0 { state.directories[watch] = WeakDirectory(directory: directory) }
            return (watch, code)
        }
        if watch < 0 { complain(code) }
        return watch
    }

    private func complain(_ code: Int32) {
        let isFirst = state.withLock { state in
            defer { state.hasComplained = true }
            return !state.hasComplained
        }
        guard isFirst else { return }
        let reason =
            switch code {
            case ENOSPC: "raise fs.inotify.max_user_watches"
            // The directory is named by its descriptor below /proc.
            case ENOENT: "is /proc mounted?"
            default: String(cString: strerror(code))
            }
        context.log.warning("directories cannot be watched (\(reason)); changes show after a second")
    }

    /// Ends the watch of a directory that the kernel has forgotten.
    func remove(_ watch: Int32) {
        guard watch >= 0 else { return }
        let newer = state.withLock { (state) -> HostDirectory? in
            // The number may stand for a newer object of the same directory.
            guard let entry = state.directories[watch] else { return nil }
            if let newer = entry.directory { return newer }
            state.directories[watch] = nil
            clinux_watch_remove(inotify, watch)
            return nil
        }
        // Ends outside the lock: its own end comes here again.
        withExtendedLifetime(newer) {}
    }

    /// Wakes the thread: there is an image to look after.
    func wake() { clinux_event_signal(event) }

    /// Lets `run` return.
    func end() {
        state.withLock { $0.isEnding = true }
        clinux_event_signal(event)
    }

    /// Handles changes until `end()`; the body of the thread.
    func run(_ table: NodeTable) {
        while !state.withLock({ $0.isEnding }) {
            var wanted = [
                pollfd(fd: inotify, events: Int16(POLLIN), revents: 0),
                pollfd(fd: event, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&wanted, 2, context.imagesOpen().isEmpty ? -1 : 1000)
            clinux_event_clear(event)
            handleEvents(table)
            let now = ContinuousClock.now
            for image in context.imagesOpen() { _ = image.closeIfIdle(at: now) }
        }
    }

    private func handleEvents(_ table: NodeTable) {
        guard inotify >= 0 else { return }
        let batch = EventBatch()
        _ = clinux_watch_read(inotify, Unmanaged.passUnretained(batch).toOpaque(), collectEvent)
        var forgotten: Set<Invalidation> = []
        if batch.events.contains(where: { $0.what != 0 }) { context.noticeChange() }
        for event in batch.events {
            if event.what & CLINUX_WATCH_OVERFLOW != 0 {
                forgetAll(table)
                return
            }
            guard let directory = directory(of: event) else { continue }
            forgotten.formUnion(directory.forgetting(event.name, table))
        }
        context.invalidations.push(Array(forgotten))
    }

    private func directory(of event: EventBatch.Event) -> HostDirectory? {
        state.withLock { state in
            let directory = state.directories[event.watch]?.directory
            if event.what & CLINUX_WATCH_GONE != 0 {
                state.directories[event.watch] = nil
                directory?.watchEnded()
            }
            return directory
        }
    }

    /// Lets the kernel forget every name and attribute of every directory.
    func forgetAll(_ table: NodeTable) {
        var items: [Invalidation] = []
        for node in table.nodes() {
            if case .directory(let content) = node.content, let directory = content as? HostDirectory {
                items += directory.forgettingAll(table)
            } else {
                items.append(.node(node.id))
            }
        }
        context.invalidations.push(items)
    }
}

/// The events of one reading of the inotify descriptor.
private final class EventBatch {
    struct Event {
        var watch: Int32
        var what: Int32
        var name: Name
    }

    var events: [Event] = []
}

private func collectEvent(
    _ context: UnsafeMutableRawPointer?, _ watch: Int32, _ what: Int32, _ name: UnsafePointer<CChar>?, _ length: Int
) {
    guard let context else { return }
    let bytes = Name(UnsafeRawBufferPointer(start: name, count: name == nil ? 0 : length))
    Unmanaged<EventBatch>.fromOpaque(context)._withUnsafeGuaranteedRef {
        $0.events.append(EventBatch.Event(watch: watch, what: what, name: bytes))
    }
}
