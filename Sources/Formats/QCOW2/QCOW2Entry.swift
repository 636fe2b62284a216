internal import Storage

extension QCOW2 {
    /// An L2 entry taken apart, as a writer needs it. Without subclusters a cluster counts as its own only one.
    struct ClusterState: Equatable {
        /// What the entry names on the host.
        enum Host: Equatable {
            /// Nothing.
            case none
            /// A cluster of the file that holds the data; `isCopied` is the flag that says that nothing else has it.
            case cluster(UInt64, isCopied: Bool)
            /// `length` bytes at `offset` of the image decode to the cluster.
            case compressed(offset: UInt64, length: UInt64)
        }

        /// What the entry names.
        var host: Host
        /// The subclusters with bytes of their own, a bit each.
        var allocated: UInt32
        /// The subclusters that read as zeros.
        var zero: UInt32
    }
}

extension QCOW2.EntryRules {
    /// The bits of all subclusters of a cluster.
    var allSubclusters: UInt32 { hasSubclusters ? .max : 1 }

    /// A subcluster has 2 to this power bytes.
    var subclusterBits: UInt64 { hasSubclusters ? clusterBits - 5 : clusterBits }

    /// How many words an L2 entry has.
    var wordsPerEntry: Int { hasSubclusters ? 2 : 1 }

    /// The subclusters that the bytes from `lower` up to `upper` (above it, both within the cluster) touch.
    func subclusters(from lower: UInt64, to upper: UInt64) -> UInt32 {
        let first = lower >> subclusterBits
        let last = (upper - 1) >> subclusterBits
        return UInt32(truncatingIfNeeded: ((2 << (last - first)) - 1) << first)
    }

    /// Takes an entry apart; `second` is its second word, where it has one. Throws `.corrupt`.
    func state(
        _ word: UInt64, _ second: UInt64, at place: UInt64, guest: UInt64
    ) throws(ImageError) -> QCOW2.ClusterState {
        if case .compressed(let offset, let length) = try cluster(word, at: place, guest: guest) {
            guard second == 0 else { throw ImageError(.corrupt, "a compressed cluster has subclusters", at: place) }
            return QCOW2.ClusterState(
                host: .compressed(offset: offset, length: length), allocated: allSubclusters, zero: 0)
        }
        let offset = word & QCOW2.Tables.offsetMask
        let isCopied = word >> 63 == 1
        let hasHost = offset != 0 || (hasDataFile && isCopied)
        let host: QCOW2.ClusterState.Host = hasHost ? .cluster(offset, isCopied: isCopied) : .none
        if hasSubclusters {
            let map = try QCOW2.SubclusterMap(second, hasHost: hasHost, at: place)
            return QCOW2.ClusterState(host: host, allocated: map.allocated, zero: map.zero)
        }
        let isZero = word & 1 == 1
        return QCOW2.ClusterState(host: host, allocated: hasHost && !isZero ? 1 : 0, zero: isZero ? 1 : 0)
    }

    /// The words of an entry that names no compressed cluster.
    func words(of state: QCOW2.ClusterState) -> (word: UInt64, second: UInt64) {
        var word: UInt64 = 0
        if case .cluster(let offset, let isCopied) = state.host { word = offset | (isCopied ? 1 << 63 : 0) }
        if hasSubclusters { return (word, UInt64(state.zero) << 32 | UInt64(state.allocated)) }
        return (word | (state.zero == 0 ? 0 : 1), 0)
    }
}
