internal import Bytes
internal import Storage

extension QCOW2.Checker {
    /// Makes new refcount structures at the end of the file and switches to them: for an image whose own cannot be trusted,
    /// or lack blocks. The old ones stay untouched until the switch, which is one sector, and are free after it.
    func rebuildRefcounts() throws(ImageError) {
        releaseOldStructures()
        var indices = try neededBlocks()
        let first = clusterLimit
        let table = try layOut(&indices, from: first)
        let total = table + UInt64(indices.count)
        for cluster in first..<(first + total) { try counts.add(cluster, as: .exclusive) }
        try beginChanging()
        fileSize = (first + total) * clusterSize
        try storage.resize(to: fileSize)
        let places = indices.sorted().enumerated().map { (offset, index) in
            (index: index, place: (first + table + UInt64(offset)) * clusterSize)
        }
        for block in places { try writeBlock(block.index, at: block.place, newFrom: first) }
        var entries = [UInt64](repeating: 0, count: Int(table * clusterSize / 8))
        for block in places { entries[Int(block.index)] = block.place }
        try storage.write(at: HostOffset(first * clusterSize), entries.flatMap(Self.bigEndian))
        try storage.flush()
        // Place and length of the table lie side by side in the first sector.
        let length = UInt32(table)
        try storage.write(
            at: HostOffset(48),
            Self.bigEndian(first * clusterSize)
                + (0..<4).map { UInt8(truncatingIfNeeded: length >> UInt32(24 - $0 * 8)) })
        try storage.flush()
        (tableOffset, tableClusters, blocks) = (first * clusterSize, table, entries)
        report.imageEnd = fileSize
        report.add(.note, "the refcounts were written anew at the end of the file", at: tableOffset, isRepaired: true)
    }

    private static func bigEndian(_ word: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - $0 * 8)) }
    }

    /// Takes the references of the header to the old table, and of the table to its blocks, back.
    private func releaseOldStructures() {
        var old = blocks.filter { $0 != 0 }.map { $0 >> header.clusterBits }
        if tableOffset >= clusterSize, tableOffset <= fileSize, tableClusters * clusterSize <= fileSize - tableOffset {
            let first = tableOffset >> header.clusterBits
            old += first..<(first + tableClusters)
        }
        for cluster in old {
            counts.remove(cluster)
            counts.set(.wantedOne, !isTreeDamaged && counts.count(of: cluster) == 1, of: cluster)
        }
    }

    /// The blocks, by index, in which a refcount will not be 0.
    private func neededBlocks() throws(ImageError) -> Set<UInt64> {
        var needed: Set<UInt64> = []
        var last: UInt64?
        try forEachWanted(in: segments) { cluster, _ in
            guard last != cluster / perBlock else { return }
            last = cluster / perBlock
            needed.insert(cluster / perBlock)
        }
        return needed
    }

    /// Calls `body` with every cluster of the old file whose refcount will not be 0.
    private func forEachWanted(
        in segments: some Sequence<UInt64>, _ body: (_ cluster: UInt64, _ wanted: UInt64) -> Void
    ) throws(ImageError) {
        var stored = [UInt64](repeating: 0, count: Int(QCOW2.ClusterCounts.segment))
        let limit = clusterLimit
        for segment in segments {
            // Stored refcounts matter only while nothing may be given back.
            if isTreeDamaged { try loadStored(segment, into: &stored) }
            let base = segment * QCOW2.ClusterCounts.segment
            for index in stored.indices where base + UInt64(index) < limit {
                let value = wanted(stored[index], counts.count(of: base + UInt64(index)))
                if value > 0 { body(base + UInt64(index), value) }
            }
        }
    }

    /// Adds the blocks that the new structures need for themselves, and returns how many clusters the table takes.
    private func layOut(_ indices: inout Set<UInt64>, from first: UInt64) throws(ImageError) -> UInt64 {
        var total: UInt64 = 1
        while true {
            for index in (first / perBlock)...((first + total - 1) / perBlock) { indices.insert(index) }
            let table = ((indices.max() ?? 0) + 1).dividedRoundingUp(by: clusterSize / 8)
            guard table * clusterSize <= 8 << 20 else {
                throw ImageError(
                    .unsupported, "the file is too large for refcounts in clusters of this size; copy the disk instead")
            }
            let needed = table + UInt64(indices.count)
            if needed == total { return table }
            total = needed
        }
    }

    private func writeBlock(_ index: UInt64, at place: UInt64, newFrom first: UInt64) throws(ImageError) {
        var bytes = [UInt8](repeating: 0, count: Int(clusterSize))
        let (start, end) = (index * perBlock, (index + 1) * perBlock)
        let size = QCOW2.ClusterCounts.segment
        let (order, lastSegment) = (header.refcountOrder, (end - 1) / size)
        let low = segments.partitioningIndex { $0 >= start / size }
        let high = segments.partitioningIndex { $0 > lastSegment }
        try forEachWanted(in: segments[low..<max(low, high)]) { cluster, wanted in
            guard cluster >= start, cluster < end, cluster < first else { return }
            Self.store(wanted, at: Int(cluster - start), in: &bytes, order: order)
        }
        for cluster in max(start, first)..<max(start, first, min(end, clusterCount)) {
            Self.store(1, at: Int(cluster - start), in: &bytes, order: order)
        }
        try storage.write(at: HostOffset(place), bytes)
    }
}

extension Array where Element == UInt64 {
    /// The index of the first element for which `isBehind` holds, in an array where all those come last.
    fileprivate func partitioningIndex(_ isBehind: (UInt64) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBehind(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
