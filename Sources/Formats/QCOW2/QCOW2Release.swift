internal import Bytes
internal import Storage

/// Giving ranges of the disk up, by metadata alone.
extension QCOW2.WriteState {
    /// At most so many L2 tables are looked at in one call, so that nobody waits long and a batch stays small: 8 MiB of
    /// them, which describe 512 MiB of the disk and more.
    private var mostTables: Int { max(4, Int((8 << 20) >> clusterBits)) }

    /// What `FormatDriver.release` says.
    ///
    /// What shall read as zeros gets the zero flag, of its subcluster where there are some; version 2 has none, so there
    /// an entry is emptied if no backing file shows through, and otherwise nothing is handled. A cluster whose last bytes
    /// went is freed. In a data file each cluster has its place for good: what is there is written over.
    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        try checkUsable()
        let nothing = ByteRange(range.lower, to: range.lower)
        let shows: Bool
        if case .showsParent = release { shows = true } else { shows = false }
        guard let inner = try wholeUnits(of: range) else { return nothing }
        if hasDataFile { return try readingZero(inner, shows: shows) ?? nothing }
        let setsZero = !shows && header.version >= 3
        guard setsZero || !hasParent || shows else { return nothing }
        var position = inner.lower
        for _ in 0..<mostTables where position < inner.upper {
            let tableEnd = ((position >> tables.tableBits) + 1) << tables.tableBits
            let part = ByteRange(position, to: min(inner.upper, tableEnd))
            do throws(ImageError) {
                try releaseInTable(part, setsZero: setsZero, freed: &freed)
            } catch {
                // What was done before is done; the rest gets the error.
                guard position > inner.lower, error.kind == .noSpace else { throw error }
                break
            }
            position = part.upper
            if position == tableEnd { position = try endOfHoles(from: position, to: inner.upper, shows: shows) }
        }
        return ByteRange(inner.lower, to: position)
    }

    /// The part of `range` that can be given up without a cluster losing some of its bytes and keeping others; nil where there
    /// is none. The end of the disk ends a unit.
    private func wholeUnits(of range: ByteRange) throws(ImageError) -> ByteRange? {
        let unit: UInt64 = 1 << rules.subclusterBits
        guard var lower = range.lower.roundedUp(toPowerOfTwo: unit) else { return nil }
        var upper = range.upper >= tables.virtualSize ? tables.virtualSize : range.upper & ~(unit - 1)
        guard lower < upper else { return nil }
        let inner = ByteRange(lower, to: upper)
        if lower & (clusterSize - 1) != 0, try !canGiveUp(inner, at: lower) { lower = lower | (clusterSize - 1) + 1 }
        if upper & (clusterSize - 1) != 0, try !canGiveUp(inner, at: upper - 1) { upper &= ~(clusterSize - 1) }
        return lower < upper ? ByteRange(lower, to: upper) : nil
    }

    /// Whether the part of `range` in the cluster of the guest's byte `position`, not all of it, can be given up. Not that
    /// of a compressed cluster. Nor that of a cluster with other bytes, which would keep its place on the host: the next
    /// write of the part would go there while the durable entry still shows the old bytes, and a sector of which power let
    /// only some of the write through would mix both. There zeros are written over the bytes, which the host gives back.
    private func canGiveUp(_ range: ByteRange, at position: UInt64) throws(ImageError) -> Bool {
        guard !hasDataFile, let state = try state(at: position) else { return true }
        if case .compressed = state.host { return false }
        let covered = covered(by: range, of: position >> clusterBits)
        return state.allocated & covered == 0 || state.allocated & ~covered == 0
    }

    /// What the entry says that describes the guest's byte `position`; nil where there is no L2 table.
    private func state(at position: UInt64) throws(ImageError) -> QCOW2.ClusterState? {
        let place = tables.l1Offset + (position >> tables.tableBits) * 8
        let table = try tables.l2Table(try word(at: place), at: place, fileSize: imageFile.size)
        return table == 0 ? nil : try state(of: position >> clusterBits, in: table)
    }

    /// The end of the L1 entries without a table from `position` on, a table's start, up to `limit`, where such a part needs
    /// no change: it reads as the parent does, or as zeros where there is none.
    private func endOfHoles(from position: UInt64, to limit: UInt64, shows: Bool) throws(ImageError) -> UInt64 {
        guard !hasParent || shows else { return min(position, limit) }
        var end = position
        var looked = 0
        while end < limit, looked < 1 << 16 {
            guard try word(at: tables.l1Offset + (end >> tables.tableBits) * 8) == 0 else { break }
            end += 1 << tables.tableBits
            looked += 1
        }
        return min(end, limit)
    }

    /// The start of `range`, which lies in a data file, as far as it reads as asked for already.
    private func readingZero(_ range: ByteRange, shows: Bool) throws(ImageError) -> ByteRange? {
        var position = range.lower
        var looked = 0
        while position < range.upper, looked < 1 << 16 {
            looked += 1
            guard let state = try state(at: position) else {
                guard !hasParent || shows else { break }
                position = min(range.upper, ((position >> tables.tableBits) + 1) << tables.tableBits)
                continue
            }
            let start = position & ~(clusterSize - 1)
            let end = min(range.upper, start + clusterSize)
            let covered = rules.subclusters(from: position - start, to: end - start)
            guard state.allocated & covered == 0 else { break }
            if shows ? state.zero & covered != 0 : hasParent && ~state.zero & covered != 0 { break }
            position = end
        }
        return position > range.lower ? ByteRange(range.lower, to: position) : nil
    }

    // MARK: - One table

    /// Releases whole units that one L2 table describes.
    private func releaseInTable(
        _ range: ByteRange, setsZero: Bool, freed: inout [HostRun]
    ) throws(ImageError) {
        let place = tables.l1Offset + (range.lower >> tables.tableBits) * 8
        let hasTable = try tables.l2Table(try word(at: place), at: place, fileSize: imageFile.size) != 0
        // Without a table the parent shows, or zeros: only a zero over a parent has to be said.
        guard hasTable || (setsZero && hasParent) else { return }
        let table = try ownTable(for: range.lower)
        let first = range.lower >> clusterBits
        let end = (range.upper - 1) >> clusterBits + 1
        try changeEntries(of: first..<end, in: table, freed: &freed) { (cluster, state, drops) throws(ImageError) in
            let covered = self.covered(by: range, of: cluster)
            let old = state
            // A hole of a disk without a parent reads as zeros, and stays one.
            let unwritten = self.hasParent ? 0 : ~(old.allocated | old.zero)
            state.allocated = old.allocated & ~covered
            state.zero = setsZero ? old.zero | covered & ~unwritten : old.zero & ~covered
            if case .compressed = old.host { state.host = .none }
            if state.allocated == 0, old.allocated != 0 || covered == self.rules.allSubclusters {
                self.addHostClusters(of: old.host, to: &drops)
                state.host = .none
            }
        }
    }
}
