internal import Synchronization

/// How much was read and written of one image, through all files that show it.
final class AccessCounters: Sendable {
    let reads = Atomic<UInt64>(0)
    let bytes = Atomic<UInt64>(0)
    let writes = Atomic<UInt64>(0)
    let bytesWritten = Atomic<UInt64>(0)
    let errors = Atomic<UInt64>(0)
}

/// What the content was when the kernel was last told to keep its pages of a file, or to drop them.
///
/// Each file that shows something of an image has its own: a change that one of them meets is news to all others.
final class Generation: Sendable {
    private let last = Atomic<UInt64>(0)

    /// Whether the pages that the kernel has are of `generation`; from now on they are.
    func isKnown(_ generation: UInt64) -> Bool {
        last.exchange(generation, ordering: .relaxed) == generation
    }
}
