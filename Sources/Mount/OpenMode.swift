internal import CLinux
internal import Glibc
internal import Synchronization

/// What the flags of open(2) ask for.
struct OpenMode: Sendable {
    /// Whether bytes are to be changed.
    let isWriting: Bool
    /// Whether everything is to be thrown away first (O_TRUNC).
    let truncates: Bool
    /// Whether the kernel's page cache is to be passed by (O_DIRECT).
    let isDirect: Bool
    /// Whether the caller is root or the user who mounted.
    let isOwner: Bool

    init(_ flags: Int32, caller: UInt32 = 0) {
        isOwner = caller == 0 || caller == geteuid()
        truncates = flags & O_TRUNC != 0
        isWriting = flags & O_ACCMODE != O_RDONLY || truncates
        isDirect = flags & clinux_past_cache != 0
    }
}

/// How an open file stands to its image and to the other open files of it.
struct OpenRole: Sendable {
    /// The image that the file shows a part of.
    let image: ImageFile
    /// Where the file begins on the whole disk, in bytes.
    let start: UInt64
    /// Whether it is the whole disk, whose pages the kernel keeps.
    let isWhole: Bool
    /// Whether it may be written.
    let isWriter: Bool
    /// Whether its requests pass by the page cache of the whole disk, which then has to be told of changes.
    let isAside: Bool
    /// Whether the kernel may have several writes of the file under way at once.
    let isParallel: Bool
}

/// What the open files of one image have to know of each other while it is written.
final class WriteState: Sendable {
    /// How many opens of the whole disk go through the page cache.
    let cachedOpens = Atomic<Int>(0)
    /// Whether bytes have changed past the page cache while nobody used that.
    let changedAside = Atomic<Bool>(false)
    /// The kernel's dropping of the pages from before such a change.
    let drops = PageDrops()
    /// Whether a writer has been released and not all it wrote is committed.
    let isReleased = Atomic<Bool>(false)
    /// Counts the commits that failed while nobody waited for them, and the error of the last one.
    let failures = Atomic<UInt32>(0)
    let lastFailure = Atomic<Int32>(0)
    /// Whether what is uncommitted can never be committed any more.
    let isBroken = Atomic<Bool>(false)

    /// Whether the kernel may have pages of the whole disk that a change just made has to be told to. Whoever opens the
    /// disk meanwhile sees the mark, or is seen here.
    func mustTellOfChange() -> Bool {
        if !changedAside.load(ordering: .relaxed) { changedAside.store(true, ordering: .relaxed) }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return cachedOpens.load(ordering: .relaxed) > 0
    }

    /// Counts an open of the whole disk through the page cache. Returns whether the pages from before are true.
    func opensCached() -> Bool {
        cachedOpens.add(1, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        // In this order: who finds the flag taken already finds the drops begun.
        if changedAside.load(ordering: .sequentiallyConsistent) {
            drops.begin()
            changedAside.store(false, ordering: .sequentiallyConsistent)
        }
        return !drops.areUnderWay
    }
}
