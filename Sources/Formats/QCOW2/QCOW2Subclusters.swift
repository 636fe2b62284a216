internal import Storage

extension QCOW2 {
    /// The second word of an extended L2 entry: for each of 32 subclusters whether it has bytes of its own, or reads as
    /// zeros (QEMU, docs/interop/qcow2, "Extended L2 Entries").
    struct SubclusterMap: BitwiseCopyable, Sendable {
        /// The subclusters with bytes of their own, a bit each.
        let allocated: UInt32
        /// The subclusters that read as zeros.
        let zero: UInt32

        /// How many subclusters a cluster has.
        static let count = 32

        /// What one subcluster is.
        enum State: BitwiseCopyable, Sendable {
            case unallocated
            case zero
            case data
        }

        /// Reads the word. `hasHost` says whether the entry names a host cluster; `place` is where the entry lies. Throws
        /// `.corrupt` for a subcluster that is both, and for one with bytes where there is no host cluster.
        init(_ word: UInt64, hasHost: Bool, at place: UInt64) throws(ImageError) {
            allocated = UInt32(truncatingIfNeeded: word)
            zero = UInt32(truncatingIfNeeded: word >> 32)
            guard allocated & zero == 0 else {
                throw ImageError(.corrupt, "an L2 entry has a subcluster that is both allocated and zero", at: place)
            }
            guard hasHost || allocated == 0 else {
                throw ImageError(.corrupt, "an L2 entry has allocated subclusters without a host cluster", at: place)
            }
        }

        /// What the subcluster at `index` (0–31) is, and how many from there on are the same.
        func run(at index: Int) -> (state: State, count: Int) {
            let bytes = allocated >> UInt32(index)
            let zeros = zero >> UInt32(index)
            let left = Self.count - index
            if bytes & 1 == 1 { return (.data, min(left, (~bytes).trailingZeroBitCount)) }
            if zeros & 1 == 1 { return (.zero, min(left, (~zeros).trailingZeroBitCount)) }
            return (.unallocated, min(left, (bytes | zeros).trailingZeroBitCount))
        }
    }
}
