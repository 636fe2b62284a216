internal import Glibc
internal import Synchronization

/// How much was read and written of one image, through all files that show it.
final class AccessCounters: Sendable {
    let reads = Atomic<UInt64>(0)
    let bytes = Atomic<UInt64>(0)
    let writes = Atomic<UInt64>(0)
    let bytesWritten = Atomic<UInt64>(0)
    let errors = Atomic<UInt64>(0)
}

/// That the kernel was told to drop the pages of a file, with the answer to an open.
///
/// It does so after that answer, for that open alone: another one that is answered meanwhile must not keep them.
final class PageDrops: Sendable {
    /// How long the kernel is given, in nanoseconds.
    private static let patience: UInt64 = 2_000_000_000
    private let until = Atomic<UInt64>(0)

    /// The kernel is being told.
    func begin() { until.store(Self.now + Self.patience, ordering: .sequentiallyConsistent) }

    /// Whether it may still be at it.
    var areUnderWay: Bool {
        let until = until.load(ordering: .sequentiallyConsistent)
        return until != 0 && Self.now < until
    }

    private static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// What the content was when the kernel was last told to keep its pages of a file, or to drop them.
///
/// Each file that shows something of an image has its own: a change that one of them meets is news to all others.
final class Generation: Sendable {
    private let last = Atomic<UInt64>(0)
    private let drops = PageDrops()

    /// Whether the pages that the kernel has are of `generation`; from now on they are.
    func isKnown(_ generation: UInt64) -> Bool {
        // In this order: who finds the generation known already finds the drops begun.
        if last.load(ordering: .sequentiallyConsistent) != generation {
            drops.begin()
            last.store(generation, ordering: .sequentiallyConsistent)
        }
        return !drops.areUnderWay
    }
}
