internal import Bytes
internal import Storage

extension QCOW2.Checker {
    /// Finds the refcount blocks and counts them and their table. A table entry that cannot be right makes the whole
    /// structure one that is not repaired in place.
    func readRefcountTable() throws(ImageError) {
        let bytes = tableClusters * clusterSize
        blocks = [UInt64](repeating: 0, count: Int(bytes / 8))
        guard tableOffset >= clusterSize, tableOffset <= fileSize, bytes <= fileSize - tableOffset else {
            addToRebuild("the refcount table does not lie within the file", at: 48)
            return
        }
        try mark(tableOffset, bytes: bytes, as: .exclusive, from: 48)
        try forEachEntry(at: tableOffset, bytes: bytes) { (place, entry, _) throws(ImageError) in
            guard entry & (clusterSize - 1) == 0 else {
                addToRebuild("a refcount table entry names a block that is not on a cluster", at: place, name(place))
                return
            }
            guard entry <= fileSize, clusterSize <= fileSize - entry else {
                addToRebuild("a refcount table entry names a block past the end of the file", at: place, name(place))
                return
            }
            guard blockClusters.insert(entry >> header.clusterBits).inserted else {
                addToRebuild("a refcount block is named twice", at: place, name(place))
                return
            }
            blocks[Int((place - tableOffset) / 8)] = entry
            try mark(entry, bytes: clusterSize, as: .exclusive, from: place)
            if counts.count(of: entry >> header.clusterBits) != 1 {
                addToRebuild("a refcount block is used for something else too", at: entry, name(place))
            }
        }
    }

    private func addToRebuild(_ what: StaticString, at place: UInt64, _ entry: @autoclosure () -> String? = nil) {
        needsRebuild = true
        report.add(.corruption, what, at: place, entry(), isRepaired: repairs)
    }

    private func name(_ place: UInt64) -> String {
        CheckReport.entry("refcount table", at: tableOffset, (place - tableOffset) / 8)
    }

    // MARK: - Stored refcounts

    /// Fills `stored` with the refcounts of the clusters of a segment; 0 where there is no block.
    func loadStored(_ segment: UInt64, into stored: inout [UInt64]) throws(ImageError) {
        for index in stored.indices { stored[index] = 0 }
        try forEachPart(of: segment) { (part) throws(ImageError) in
            let block = part.index < UInt64(blocks.count) ? blocks[Int(part.index)] : 0
            guard block != 0 else { return }
            let bytes = try storage.bytes(at: HostOffset(block + part.byteOffset), count: part.byteCount)
            for index in 0..<part.count {
                stored[part.first + index] = Self.refcount(bytes.span.bytes, at: index, order: header.refcountOrder)
            }
        }
    }

    /// A part of a segment whose refcounts lie in one block.
    struct BlockPart {
        /// The index of the block in the table.
        var index: UInt64
        /// Where in the block the part's refcounts begin, and how many bytes they take.
        var byteOffset: UInt64
        var byteCount: Int
        /// Where the part begins in the segment, and how many clusters it has.
        var first: Int
        var count: Int
    }

    /// Calls `body` with the parts of a segment: one, or several where blocks are small.
    func forEachPart(
        of segment: UInt64, _ body: (BlockPart) throws(ImageError) -> Void
    ) throws(ImageError) {
        let length = min(QCOW2.ClusterCounts.segment, perBlock)
        let order = UInt64(header.refcountOrder)
        for first in stride(from: 0, to: QCOW2.ClusterCounts.segment, by: Int(length)) {
            let cluster = segment * QCOW2.ClusterCounts.segment + first
            try body(
                BlockPart(
                    index: cluster / perBlock, byteOffset: ((cluster % perBlock) << order) >> 3,
                    byteCount: Int((length << order) >> 3), first: Int(first), count: Int(length)))
        }
    }

    /// The refcount at `index` of a part of a block: below 8 bits the lowest first, above that big-endian.
    static func refcount(_ span: RawSpan, at index: Int, order: UInt32) -> UInt64 {
        switch order {
        case 0...2:
            let bits = 1 << Int(order)
            return UInt64(span.byte(at: index * bits / 8)) >> UInt64(index * bits % 8) & (1 << UInt64(bits) - 1)
        case 3: return UInt64(span.byte(at: index))
        case 4: return UInt64(span.big(UInt16.self, at: index * 2))
        case 5: return UInt64(span.big(UInt32.self, at: index * 4))
        default: return span.big(at: index * 8)
        }
    }

    /// Stores a refcount, which fits its width, at `index` of a part of a block.
    static func store(_ value: UInt64, at index: Int, in bytes: inout [UInt8], order: UInt32) {
        guard order >= 3 else {
            let bits = 1 << Int(order)
            let shift = UInt8(index * bits % 8)
            let mask = UInt8(1 << bits - 1) << shift
            bytes[index * bits / 8] = bytes[index * bits / 8] & ~mask | UInt8(truncatingIfNeeded: value) << shift
            return
        }
        let width = 1 << (Int(order) - 3)
        for byte in 0..<width {
            bytes[index * width + byte] = UInt8(truncatingIfNeeded: value >> UInt64((width - 1 - byte) * 8))
        }
    }

    // MARK: - Comparing

    /// What a stored refcount should become. Nothing is given back while parts of the tree could not be followed.
    func wanted(_ stored: UInt64, _ counted: UInt64) -> UInt64 {
        counted >= stored ? min(counted, max(stored, largestRefcount)) : isTreeDamaged ? stored : counted
    }

    /// Compares every stored refcount with the number of references.
    func compareRefcounts() throws(ImageError) {
        segments = try touchedSegments()
        let limit = clusterLimit
        var stored = [UInt64](repeating: 0, count: Int(QCOW2.ClusterCounts.segment))
        var end: UInt64 = 0
        for segment in segments {
            try loadStored(segment, into: &stored)
            let base = segment * QCOW2.ClusterCounts.segment
            for index in stored.indices where base + UInt64(index) < limit {
                let cluster = base + UInt64(index)
                let counted = counts.count(of: cluster)
                guard stored[index] | counted != 0 else { continue }
                end = cluster + 1
                compare(cluster, stored: stored[index], counted: counted)
            }
        }
        report.imageEnd = end.checkedMultiplying(by: clusterSize) ?? fileSize
    }

    private func compare(_ cluster: UInt64, stored: UInt64, counted: UInt64) {
        counts.set(.storedOne, stored == 1, of: cluster)
        // A count that does not fit leaves the flag as it is: no flag would be right.
        let isOne = wanted(stored, counted) == 1 && (counted <= 1 || counted > largestRefcount)
        counts.set(.wantedOne, isOne, of: cluster)
        let place = cluster << header.clusterBits
        if stored < counted {
            let block = cluster / perBlock
            if block >= UInt64(blocks.count) || blocks[Int(block)] == 0 { needsRebuild = true }
            // A rebuild moves the refcount structures away from what else is in their clusters.
            let isMoved = needsRebuild && isRefcountStructure(cluster)
            let left = isMoved ? counted - 1 : counted
            // A right count does not help where a table and something else are in one cluster.
            let isShared = counts.marks(of: cluster).isSuperset(of: [.overlaps, .exclusive]) && !isMoved
            report.add(
                refcountSeverity, "a cluster's refcount is lower than the number of its uses", at: place,
                "cluster \(cluster)", detail: Self.detail(stored, counted),
                isRepaired: repairs && left <= largestRefcount && !isShared)
            return
        }
        if stored > counted {
            report.add(
                .leak, "a cluster's refcount is higher than the number of its uses", at: place, "cluster \(cluster)",
                detail: Self.detail(stored, counted),
                isRepaired: repairs && !isTreeDamaged)
        }
        let marks = counts.marks(of: cluster)
        guard marks.contains(.overlaps) else { return }
        // With a refcount above 1 nobody writes in place, so guest data and L2 tables cannot harm each other any more.
        report.add(
            marks.contains(.exclusive) ? .corruption : .note, "a cluster is used for two different things", at: place,
            "cluster \(cluster)",
            isRepaired: repairs && needsRebuild && isRefcountStructure(cluster))
    }

    private static func detail(_ stored: UInt64, _ counted: UInt64) -> String {
        "used \(counted.counted("time")), refcount \(stored)"
    }

    /// Whether a cluster belongs to the refcount structures, which a rebuild puts elsewhere.
    private func isRefcountStructure(_ cluster: UInt64) -> Bool {
        let first = tableOffset >> header.clusterBits
        return blockClusters.contains(cluster) || (cluster >= first && cluster - first < tableClusters)
    }

    /// The segments in which there is anything to compare, ascending.
    private func touchedSegments() throws(ImageError) -> [UInt64] {
        var touched = Set(counts.segments)
        let order = UInt64(header.refcountOrder)
        for (index, block) in blocks.enumerated() where block != 0 {
            let base = UInt64(index) * perBlock
            guard base < clusterCount else { break }
            var position = block
            while position < block + clusterSize, let data = try storage.nextData(from: HostOffset(position)) {
                guard data.rawValue < block + clusterSize else { break }
                let hole = try storage.nextHole(from: data).rawValue
                let end = min(max(hole, data.rawValue + 1), block + clusterSize)
                let first = base + ((data.rawValue - block) << 3) >> order
                let last = min(base + ((end - 1 - block) << 3) >> order + 7, clusterCount - 1)
                if first <= last {
                    let size = QCOW2.ClusterCounts.segment
                    for segment in (first / size)...(last / size) { touched.insert(segment) }
                }
                position = end
            }
        }
        return touched.sorted()
    }
}
