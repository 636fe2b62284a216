internal import Synchronization

/// A few idle handles of a C library, kept because making one costs more than a small decode.
///
/// A handle is used by one thread at a time: `take` removes it. At most `limit` idle ones are kept, so that a burst of
/// readers does not hold memory for ever.
final class HandlePool: Sendable {
    private let idle = Mutex<[UInt]>([])
    private let limit: Int
    private let make: @Sendable () -> OpaquePointer?
    private let free: @Sendable (OpaquePointer) -> Void

    /// A pool that keeps up to `limit` handles, made and freed by the library's own functions.
    init(
        limit: Int, make: @escaping @Sendable () -> OpaquePointer?, free: @escaping @Sendable (OpaquePointer) -> Void
    ) {
        self.limit = limit
        self.make = make
        self.free = free
    }

    deinit {
        for bits in idle.withLock({ $0 }) {
            if let handle = OpaquePointer(bitPattern: bits) { free(handle) }
        }
    }

    /// An idle handle or a new one; nil when the library has no memory.
    func take() -> OpaquePointer? {
        if let bits = idle.withLock({ $0.popLast() }) { return OpaquePointer(bitPattern: bits) }
        return make()
    }

    /// Gives a handle back.
    func put(_ handle: OpaquePointer) {
        let bits = UInt(bitPattern: handle)
        let isKept = idle.withLock { handles in
            guard handles.count < limit else { return false }
            handles.append(bits)
            return true
        }
        if !isKept { free(handle) }
    }
}
