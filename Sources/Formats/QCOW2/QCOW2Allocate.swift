internal import Bytes
internal import Storage

/// Finding and taking clusters of the image file.
extension QCOW2.WriteState {
    /// Clusters that were taken for one purpose.
    struct Allocation {
        /// The first cluster.
        var first: UInt64
        /// How many follow each other; at least 1.
        var count: UInt64
        /// Whether they are known to read as zeros: this session made the file longer over them and nobody had them since.
        var isFresh: Bool
    }

    /// How many clusters below the end of the file one search looks at before it takes new ones.
    private static var searchLimit: UInt64 { 1 << 20 }

    /// Host offsets have 56 bits.
    private var lastCluster: UInt64 { (1 << 56 - 1) >> clusterBits }

    /// Takes up to `wanted` clusters that follow each other; they have one reference then. The refcount block that describes
    /// them is made where there is none. Throws `.noSpace`, `.corrupt` and `.io`; what was taken for blocks and tables
    /// stays in use then, and is right.
    func allocate(_ wanted: UInt64) throws(ImageError) -> Allocation {
        // Each turn that does not end adds a block to the table or replaces the table by a longer one.
        while true {
            var found = try find(wanted)
            guard found.first + found.count <= lastCluster else {
                throw ImageError(.noSpace, "the image file is as long as the format allows")
            }
            let block = found.first >> blockBits
            guard block < UInt64(blocks.count) else {
                try growTable(from: found.first)
                continue
            }
            guard blocks[Int(block)] != 0 else {
                try addBlock(at: found.first)
                continue
            }
            found.count = min(found.count, (block + 1) << blockBits - found.first)
            try claim(found.first, count: found.count)
            try changeRefcounts(from: found.first, count: found.count, .one)
            return found
        }
    }

    /// Looks for up to `wanted` free clusters that follow each other: first among those that were freed or never used
    /// below the end of the file, then behind it.
    private func find(_ wanted: UInt64) throws(ImageError) -> Allocation {
        while cursor < fresh {
            let limit = min(fresh, cursor + Self.searchLimit)
            let first = try firstCluster(from: cursor, to: limit, isFree: true)
            cursor = first
            if first < limit {
                let end = try firstCluster(from: first, to: min(fresh, first + wanted), isFree: false)
                return Allocation(first: first, count: end - first, isFresh: false)
            }
            if try canGrow() { break }
        }
        let limitBehind = fresh + Self.searchLimit
        let first = try firstCluster(from: fresh, to: limitBehind, isFree: true)
        guard first < limitBehind else {
            throw ImageError(.noSpace, "no free cluster was found behind the end of the file; check the image")
        }
        let end = try firstCluster(from: first, to: first + wanted, isFree: false)
        return Allocation(first: first, count: end - first, isFresh: true)
    }

    /// Whether there is room for a cluster behind the end: a block device and a file of the greatest size have none, and
    /// then all of what lies before is searched.
    private func canGrow() throws(ImageError) -> Bool {
        do throws(ImageError) {
            try extendImage(to: (fresh + 1) << clusterBits)
            return true
        } catch {
            guard error.kind == .noSpace else { throw error }
            return false
        }
    }

    /// Makes sure that clusters with refcount 0 are really nobody's and lie within the file, and moves on behind them. A
    /// cluster of the header or of a table whose refcount is 0 would be overwritten otherwise: the refcounts are wrong then.
    private func claim(_ first: UInt64, count: UInt64) throws(ImageError) {
        for cluster in first..<(first + count) where cluster == 0 || regions.contains(cluster) {
            throw ImageError(.corrupt, "a cluster of metadata has refcount 0", at: cluster << clusterBits)
        }
        try extendImage(to: (first + count) << clusterBits)
        if first >= fresh { fresh = first + count } else if first == cursor { cursor = first + count }
    }

    /// Makes the file at least `end` bytes long. Tables and maps may lead to every cluster that was given out, and what
    /// they lead to must lie within the file, whether its bytes were written or are known to be zeros. In steps, so that
    /// not each allocation changes the size.
    func extendImage(to end: UInt64) throws(ImageError) {
        let size = imageFile.size
        guard end > size else { return }
        let step = min(max(size / 8, 1 << 20), 64 << 20)
        let wanted = max(end, size + step)
        do throws(ImageError) {
            try imageFile.resize(to: wanted)
        } catch {
            guard wanted > end else { throw error }
            try imageFile.resize(to: end)
        }
    }

    // MARK: - Refcount structures

    /// Makes the missing refcount block that describes `cluster`, in that very cluster: it counts itself. The block goes out
    /// with the guest's bytes; the entry of the table follows in a phase of its own, when the block is durable.
    private func addBlock(at cluster: UInt64) throws(ImageError) {
        try claim(cluster, count: 1)
        let index = Int(cluster >> blockBits)
        // The entry is written by the commit.
        try store.setAside(at: HostOffset(tableOffset + UInt64(index) * 8), count: 8)
        let raw = newBlock(from: UInt64(index) << blockBits, used: cluster..<(cluster + 1))
        try store.write(at: HostOffset(cluster << clusterBits), raw, phase: .first)
        blocks[index] = cluster << clusterBits
        dirtyTableSectors.insert(index / 64)
        regions.insert(cluster)
    }

    /// Makes a longer refcount table from `first` on, a free cluster that the old one does not reach, with the blocks that
    /// describe it and themselves behind it. Everything is new: it goes out with the guest's bytes, and one sector of the
    /// header then switches from the old table to it.
    private func growTable(from first: UInt64) throws(ImageError) {
        var blockCount: UInt64 = 1
        var layout = tableLayout(from: first, blockCount: blockCount)
        while layout.blocksNeeded > blockCount {
            blockCount = layout.blocksNeeded
            layout = tableLayout(from: first, blockCount: blockCount)
        }
        guard layout.entries <= Self.mostBlocks, layout.end <= lastCluster else {
            throw ImageError(.noSpace, "the image's refcount table is as long as the format allows")
        }
        try claim(first, count: layout.end - first)
        for index in 0..<blockCount {
            let cluster = first + layout.tableClusters + index
            let described = (first >> blockBits + index) << blockBits
            try store.write(
                at: HostOffset(cluster << clusterBits), newBlock(from: described, used: first..<layout.end),
                phase: .first)
        }
        let old = (blocks.count * 8) >> Int(clusterBits)
        retireTable(tableOffset >> clusterBits, count: UInt64(old))
        blocks += [UInt64](repeating: 0, count: layout.entries - blocks.count)
        for index in 0..<blockCount {
            blocks[Int(first >> blockBits + index)] = (first + layout.tableClusters + index) << clusterBits
        }
        tableOffset = first << clusterBits
        (switchesTable, dirtyTableSectors) = (true, [])
        for cluster in first..<layout.end { regions.insert(cluster) }
    }

    /// How long a table from `first` on becomes, with `blockCount` blocks behind it, and how many it needs.
    private func tableLayout(
        from first: UInt64, blockCount: UInt64
    ) -> (entries: Int, tableClusters: UInt64, end: UInt64, blocksNeeded: UInt64) {
        let perCluster = clusterSize / 8
        let last = first >> blockBits + blockCount
        let ample = min(UInt64(blocks.count) * 3 / 2, UInt64(Self.mostBlocks))
        let clusters = max(last + 1, ample).dividedRoundingUp(by: perCluster)
        let end = first + clusters + blockCount
        let needed = (end - 1) >> blockBits - first >> blockBits + 1
        return (Int(clusters * perCluster), clusters, end, needed)
    }

    /// The old table is free when the header names the new one; until it comes back it stays metadata.
    private func retireTable(_ first: UInt64, count: UInt64) {
        for cluster in first..<(first + count) { dropped[cluster, default: 0] += 1 }
        freedTables.append(run(first, count: count))
    }
}
