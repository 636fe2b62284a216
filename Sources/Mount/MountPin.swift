internal import CLinux
internal import Glibc
internal import Logging
internal import Synchronization

/// Keeps the mount busy while anything is uncommitted: a descriptor on its own root, so that umount(2) answers EBUSY
/// instead of promising what is not on the disk yet.
final class MountPin: Sendable {
    private struct State {
        var descriptor: Int32 = -1
        /// The mount is no longer on its path: what is there now is none of ours.
        var isDetached = false
    }

    private let path: String
    private let log: Logger
    /// st_dev of the mount once it is there, for not pinning another one.
    private let device = Atomic<UInt64>(0)
    private let isHeld = Atomic<Bool>(false)
    private let state = Mutex(State())

    init(_ options: MountOptions) {
        path = options.mountpoint
        log = options.log
    }

    deinit {
        let descriptor = state.withLock { $0.descriptor }
        if descriptor >= 0 { close(descriptor) }
    }

    /// Learns which mount it is.
    func mounted(_ device: UInt64) { self.device.store(device, ordering: .relaxed) }

    /// Pins nothing any more: the path is left to others from now on.
    func detach() {
        let old = state.withLock { state in
            state.isDetached = true
            defer { state.descriptor = -1 }
            return state.descriptor
        }
        if old >= 0 { close(old) }
    }

    /// Pins the mount; called after a change and before it is acknowledged. Returns whether it was not pinned before.
    func hold() -> Bool {
        // Either this sees that the pin is gone, or `drop` sees the change.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if isHeld.load(ordering: .relaxed) { return false }
        return state.withLock { state in
            if state.descriptor < 0, !state.isDetached { state.descriptor = open() }
            return !isHeld.exchange(true, ordering: .relaxed)
        }
    }

    /// Ends the pin unless `isDirty` says that something is uncommitted.
    func drop(unless isDirty: () -> Bool) {
        guard isHeld.load(ordering: .relaxed) else { return }
        let old = state.withLock { state -> Int32 in
            isHeld.store(false, ordering: .relaxed)
            atomicMemoryFence(ordering: .sequentiallyConsistent)
            if isDirty() {
                isHeld.store(true, ordering: .relaxed)
                return -1
            }
            defer { state.descriptor = -1 }
            return state.descriptor
        }
        if old >= 0 { close(old) }
    }

    /// A descriptor that only names the root: the kernel asks the server nothing for it.
    private func open() -> Int32 {
        let descriptor = clinux_open_at(AT_FDCWD, path, clinux_path_only | O_NOFOLLOW)
        guard descriptor >= 0 else {
            log.warning("\(path): cannot keep the mount busy: \(String(cString: strerror(errno)))")
            return -1
        }
        var facts = clinux_file_facts()
        if clinux_known_facts_of(descriptor, &facts) == 0, facts.device == device.load(ordering: .relaxed) {
            return descriptor
        }
        close(descriptor)
        return -1
    }
}
