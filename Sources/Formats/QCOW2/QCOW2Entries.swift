internal import Bytes
internal import Storage

/// Changing L1 and L2 entries.
extension QCOW2.WriteState {
    /// The place of the L2 table that describes the guest's byte `position` and belongs to the active disk alone: made where
    /// there is none, and copied where a snapshot has it too. What the disk reads stays the same. Throws `.noSpace`,
    /// `.corrupt` and `.io`.
    func ownTable(for position: UInt64) throws(ImageError) -> UInt64 {
        let place = tables.l1Offset + (position >> tables.tableBits) * 8
        let entry = try word(at: place)
        let table = try tables.l2Table(entry, at: place, fileSize: imageFile.size)
        guard table != 0 else { return try addTable(copying: nil, at: place) }
        guard entry >> 63 == 0 else { return table }
        let cluster = table >> clusterBits
        let references = try references(to: cluster)
        guard references > 0 else {
            throw ImageError(.corrupt, "an L2 table in use has refcount 0", at: table)
        }
        if try refcount(of: cluster) == 1 {
            try store.write(at: HostOffset(place), Self.bytes(of: [table | 1 << 63]), phase: .later)
            return table
        }
        let copy = try addTable(copying: table, at: place)
        // The snapshot keeps the old one. Where nobody does, two entries of the L1 table shared it, and it is leaked until a
        // check: readers may still be in it.
        if references > 1 {
            dropped[cluster, default: 0] += 1
            lowered.append(cluster)
        }
        return copy
    }

    /// Makes a table and names it in the L1 entry at `place`. Nothing durable points to a new table, so all of it goes out
    /// with the guest's bytes; the L1 entry goes out when it is durable.
    private func addTable(copying old: UInt64?, at place: UInt64) throws(ImageError) -> UInt64 {
        let cluster = try allocate(1).first
        let offset = cluster << clusterBits
        var raw = [UInt8](repeating: 0, count: Int(clusterSize))
        if let old {
            raw = try bytes(at: old, count: raw.count)
            // What two tables name belongs to neither alone. A data file has no snapshots, and needs the flag.
            let step = rules.wordsPerEntry * 8
            for index in stride(from: 0, to: raw.count, by: step) where !hasDataFile { raw[index] &= 0x7F }
        }
        try store.write(at: HostOffset(offset), raw, phase: .first)
        regions.insert(cluster)
        try store.write(at: HostOffset(place), Self.bytes(of: [offset | 1 << 63]), phase: .later)
        return offset
    }

    /// The place of the entry of the guest's `cluster` in its table at `table`.
    func place(of cluster: UInt64, in table: UInt64) -> UInt64 {
        table + (cluster & (tables.entriesPerTable - 1)) << tables.entryBits
    }

    /// What the entry of the guest's `cluster` says. Throws `.corrupt` and `.io`.
    func state(of cluster: UInt64, in table: UInt64) throws(ImageError) -> QCOW2.ClusterState {
        let place = place(of: cluster, in: table)
        let second = rules.hasSubclusters ? try word(at: place + 8) : 0
        return try rules.state(try word(at: place), second, at: place, guest: cluster << clusterBits)
    }

    /// Changes the entries of `clusters`, all in the table at `table`: `change` gets each cluster and what its entry says,
    /// changes that, and adds the host clusters that lost a reference to the list. In pieces within one page, each seen
    /// whole or not at all: `done` is told when the clusters below it are changed, and their drops are counted then. Throws
    /// what `change` throws, `.corrupt` and `.io`; what was done stays.
    func changeEntries(
        of clusters: Range<UInt64>, in table: UInt64, freed: inout [HostRun],
        _ change: (UInt64, inout QCOW2.ClusterState, inout [UInt64]) throws(ImageError) -> Void,
        done: (UInt64) -> Void = { _ in }
    ) throws(ImageError) {
        var first = clusters.lowerBound
        while first < clusters.upperBound {
            let start = place(of: first, in: table)
            let inPage = (4096 - start & 4095) >> tables.entryBits
            let end = min(clusters.upperBound, first + inPage)
            var drops: [UInt64] = []
            let raw = try changed(first..<end, at: start, &drops, change)
            try checkDrops(drops)
            if let raw { try store.write(at: HostOffset(start), raw, phase: .later) }
            drop(drops, freed: &freed)
            done(end)
            first = end
        }
    }

    /// The bytes of the entries of `clusters`, which begin at `start`, after the change; nil where nothing changes.
    private func changed(
        _ clusters: Range<UInt64>, at start: UInt64, _ drops: inout [UInt64],
        _ change: (UInt64, inout QCOW2.ClusterState, inout [UInt64]) throws(ImageError) -> Void
    ) throws(ImageError) -> [UInt8]? {
        let step = rules.wordsPerEntry * 8
        var raw = try bytes(at: start, count: clusters.count * step)
        var differs = false
        for cluster in clusters {
            let index = Int(cluster - clusters.lowerBound) * step
            let first = Self.word(in: raw, at: index)
            let second = step == 16 ? Self.word(in: raw, at: index + 8) : 0
            let place = start + UInt64(index)
            let old = try rules.state(first, second, at: place, guest: cluster << clusterBits)
            var new = old
            try change(cluster, &new, &drops)
            guard new != old else { continue }
            differs = true
            let entry = rules.words(of: new)
            Self.put(entry.word, into: &raw, at: index)
            if step == 16 { Self.put(entry.second, into: &raw, at: index + 8) }
        }
        return differs ? raw : nil
    }

    private static func word(in raw: [UInt8], at index: Int) -> UInt64 {
        raw.withUnsafeBytes { UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: index, as: UInt64.self)) }
    }

    private static func put(_ word: UInt64, into raw: inout [UInt8], at index: Int) {
        raw.withUnsafeMutableBytes { $0.storeBytes(of: word.bigEndian, toByteOffset: index, as: UInt64.self) }
    }

    /// Adds the host clusters that an entry refers to, each as often as it does: what is dropped with it. Clusters of a data
    /// file are not counted.
    func addHostClusters(of host: QCOW2.ClusterState.Host, to list: inout [UInt64]) {
        switch host {
        case .none: return
        case .cluster(let offset, _):
            if !hasDataFile { list.append(offset >> clusterBits) }
        case .compressed(let offset, let length):
            for cluster in (offset >> clusterBits)...((offset + length - 1) >> clusterBits) { list.append(cluster) }
        }
    }
}
