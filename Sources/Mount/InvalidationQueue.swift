internal import CLinux
internal import Glibc
internal import Synchronization

/// Something that the kernel must forget.
enum Invalidation: Hashable, Sendable {
    /// Attributes and pages of a node.
    case node(UInt64)
    /// A name in a directory.
    case entry(parent: UInt64, name: Name)
}

/// What the kernel must forget, told to it by one thread of its own that holds no lock: a notification waits for locks
/// in the kernel that requests hold while workers answer them.
final class InvalidationQueue: Sendable {
    private struct State {
        var waiting: Set<Invalidation> = []
        var isEnding = false
    }

    private let state = Mutex(State())
    private let event = clinux_event_open()

    deinit { if event >= 0 { close(event) } }

    /// Adds to the queue and returns at once.
    func push(_ items: [Invalidation]) {
        guard !items.isEmpty else { return }
        state.withLock { $0.waiting.formUnion(items) }
        clinux_event_signal(event)
    }

    /// Lets `run` return.
    func end() {
        state.withLock { $0.isEnding = true }
        clinux_event_signal(event)
    }

    /// Tells the kernel until `end()`; the body of the thread.
    func run(_ session: SessionHandle) {
        while true {
            var wanted = pollfd(fd: event, events: Int16(POLLIN), revents: 0)
            _ = poll(&wanted, 1, 1000)
            clinux_event_clear(event)
            let (items, isEnding) = state.withLock { state in
                defer { state.waiting = [] }
                return (state.waiting, state.isEnding)
            }
            guard !isEnding else { return }
            for item in items { tell(item, session) }
        }
    }

    /// An answer of ENOENT only says that the kernel did not know it.
    private func tell(_ item: Invalidation, _ session: SessionHandle) {
        switch item {
        case .node(let id): clinux_fuse_notify_inode(session.pointer, id, 0, 0)
        case .entry(let parent, let name):
            name.withUnsafeBufferPointer { bytes in
                bytes.withMemoryRebound(to: CChar.self) { text in
                    _ = clinux_fuse_notify_entry(session.pointer, parent, text.baseAddress, text.count)
                }
            }
        }
    }
}

/// libfuse's session, which may be used from any thread.
struct SessionHandle: @unchecked Sendable {
    let pointer: OpaquePointer
}
