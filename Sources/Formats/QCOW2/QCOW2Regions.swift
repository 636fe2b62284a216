internal import Bytes
internal import Storage
internal import Synchronization

extension QCOW2 {
    /// A quick answer to "may this cluster hold metadata?", for writes in place, which take no lock.
    ///
    /// A table of bits by a hash of the cluster's number: no is certain, yes means to look closely. A bit once set stays.
    final class RegionFilter: Sendable {
        private nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt64>>
        private let count: Int
        private let shift: UInt64

        /// A filter for about `expected` clusters of metadata: 16 bits for each, between 8 KiB and 16 MiB in all.
        init(expected: UInt64) {
            let wanted = min(max(expected, 1 << 12), 1 << 23) * 16
            let bits = UInt64(UInt64.bitWidth - 1 - wanted.leadingZeroBitCount)
            shift = 64 - bits
            count = 1 << Int(bits - 6)
            words = .allocate(capacity: count)
            for index in 0..<count { (words + index).initialize(to: Atomic(0)) }
        }

        deinit {
            words.deinitialize(count: count)
            words.deallocate()
        }

        private func bit(of cluster: UInt64) -> (word: Int, mask: UInt64) {
            let hash = (cluster &* 0x9E37_79B9_7F4A_7C15) >> shift
            return (Int(hash >> 6), 1 << (hash & 63))
        }

        /// Says yes for `cluster` from now on.
        func insert(_ cluster: UInt64) {
            let bit = bit(of: cluster)
            words[bit.word].bitwiseOr(bit.mask, ordering: .releasing)
        }

        /// Whether `cluster` may have been inserted.
        func mayContain(_ cluster: UInt64) -> Bool {
            let bit = bit(of: cluster)
            return words[bit.word].load(ordering: .acquiring) & bit.mask != 0
        }
    }

    /// The clusters that metadata lies in, exactly: header, L1, L2, refcount table and blocks, snapshots, bitmaps. No guest
    /// byte is ever written there and no cluster of them is given out, whatever L2 entries and refcounts say.
    struct Regions {
        /// Clusters that follow each other.
        struct Run {
            var first: UInt64
            var count: UInt64
        }

        private let filter: RegionFilter
        private var runs: [Run] = []
        private var added: Set<UInt64> = []
        private var removed: Set<UInt64> = []

        /// More clusters of metadata than this are not kept track of.
        private static let limit: UInt64 = 1 << 24

        /// Nothing but what `filter` already says.
        init(filter: RegionFilter) { self.filter = filter }

        /// Replaces everything by `found`. Throws `.corrupt` where two of them overlap or one lies at offset 0 besides the
        /// header, and `.unsupported` where they are too many.
        mutating func replace(with found: [Run], clusterBits: UInt64) throws(ImageError) {
            let sorted = found.filter { $0.count > 0 }.sorted { $0.first < $1.first }
            var total: UInt64 = 0
            var end: UInt64 = 0
            for run in sorted {
                guard run.first >= end else {
                    throw ImageError(
                        .corrupt, "two structures of the image lie in one cluster", at: run.first << clusterBits)
                }
                end = run.first + run.count
                total += run.count
                guard total <= Self.limit else {
                    throw ImageError(.unsupported, "the image has too much metadata to be written")
                }
            }
            for run in sorted {
                for cluster in run.first..<(run.first + run.count) { filter.insert(cluster) }
            }
            (runs, added, removed) = (sorted, [], [])
        }

        /// Notes that `cluster` holds metadata from now on.
        mutating func insert(_ cluster: UInt64) {
            added.insert(cluster)
            filter.insert(cluster)
        }

        /// Notes that `cluster` holds none any more.
        mutating func remove(_ cluster: UInt64) {
            if added.remove(cluster) == nil, isInRuns(cluster) { removed.insert(cluster) }
        }

        /// Whether `cluster` holds metadata.
        func contains(_ cluster: UInt64) -> Bool {
            guard filter.mayContain(cluster) else { return false }
            return added.contains(cluster) || (isInRuns(cluster) && !removed.contains(cluster))
        }

        private func isInRuns(_ cluster: UInt64) -> Bool {
            var (low, high) = (0, runs.count)
            while low < high {
                let middle = (low + high) / 2
                if runs[middle].first <= cluster { low = middle + 1 } else { high = middle }
            }
            return low > 0 && cluster - runs[low - 1].first < runs[low - 1].count
        }
    }
}
