internal import Bytes
internal import Storage

/// Batches: what goes out in which phase.
extension QCOW2.WriteState {
    /// What `FormatDriver.freeze` says.
    ///
    /// The first phase has what nothing durable points to: whole new L2 tables, new refcount blocks, a whole new refcount
    /// table, raised refcounts, and lowered ones of references whose loss the batch before made durable. Then, only where a
    /// block or a table is new, a phase with what leads to it: the refcounts that the L2 tables rely on must be reachable
    /// before they are. The last one has the L2 entries and L1 entries themselves.
    func freeze() -> Batch? {
        var first = store.take(.first)
        var middle: [Batch.Page] = []
        if switchesTable {
            first += tablePages(0..<(blocks.count / 64), piece: 2048)
            middle = [headerPage()]
            (switchesTable, isSwitchFrozen) = (false, true)
        } else {
            for sector in dirtyTableSectors.sorted() { middle += tablePages(sector..<(sector + 1), piece: 1) }
        }
        dirtyTableSectors = []
        let last = store.take(.later)
        guard !first.isEmpty || !middle.isEmpty || !last.isEmpty else { return nil }
        // The first barrier is also that of the guest's bytes.
        var phases = [Batch.Phase(first)]
        if !middle.isEmpty { phases.append(Batch.Phase(middle)) }
        if !last.isEmpty { phases.append(Batch.Phase(last)) }
        frozenLowered = lowered
        lowered = []
        let freed = freedTables
        freedTables = []
        return Batch(phases: phases, freed: freed)
    }

    /// The sectors of the refcount table, in pages of at most `piece` sectors.
    private func tablePages(_ sectors: Range<Int>, piece: Int) -> [Batch.Page] {
        stride(from: sectors.lowerBound, to: sectors.upperBound, by: piece).map { sector in
            let end = min(sector + piece, sectors.upperBound)
            return Batch.Page(
                file: .image, offset: HostOffset(tableOffset + UInt64(sector) * 512),
                bytes: Self.bytes(of: blocks[(sector * 64)..<(end * 64)]))
        }
    }

    /// The first sector of the header with the refcount table's new place: the 12 bytes from 48 on.
    private func headerPage() -> Batch.Page {
        headerSector.replaceSubrange(48..<56, with: Self.bytes(of: [tableOffset]))
        let clusters = UInt64(blocks.count * 8) >> clusterBits
        headerSector.replaceSubrange(56..<60, with: Self.bytes(of: [clusters])[4...])
        return Batch.Page(file: .image, offset: HostOffset(0), bytes: headerSector)
    }

    /// What `FormatDriver.settle` says. References that the batch dropped are gone for good now.
    func settle() {
        store.settle()
        lower(frozenLowered)
        frozenLowered = []
        isSwitchFrozen = false
        if marksCorruptLater { markCorrupt() }
    }

    /// What `FormatDriver.reclaim` says.
    func reclaim(_ runs: [HostRun]) {
        for run in runs where run.file == .image {
            let first = run.offset.rawValue >> clusterBits
            let end = (run.offset.rawValue + run.length) >> clusterBits
            for cluster in first..<end {
                regions.remove(cluster)
                if reusesSpace { cursor = min(cursor, cluster) }
            }
            lower(first..<end)
        }
    }

    // MARK: - Header

    /// Sets the corrupt bit, durably, where the version has one, and changes nothing from then on. Not while a batch
    /// has the header: one of the two would undo the other.
    func markCorrupt() {
        health.noteCorruption()
        marksCorruptLater = isSwitchFrozen
        guard !isSwitchFrozen, header.version >= 3, headerSector.count == 512 else { return }
        headerSector[79] |= UInt8(QCOW2.Incompatible.corrupt.rawValue)
        // That the image is not changed any more holds whether or not this succeeds.
        do throws(ImageError) { try writeHeader(headerSector) } catch { return }
    }

    /// Writes the header's first sector and makes it durable; it is what `headerSector` says then and not before, or a later
    /// batch would write what was never reached. Throws `.noSpace`, `.readOnly` and `.io`.
    func writeHeader(_ sector: [UInt8]) throws(ImageError) {
        try imageFile.write(at: HostOffset(0), sector)
        try imageFile.flush()
        headerSector = sector
    }

    /// What `FormatDriver.close` says: the file loses what was added in steps and not given out, then the dirty bit
    /// goes, when everything else is durable.
    func close() throws(ImageError) {
        guard isReady else { return }
        let end = max(firstSize, fresh << clusterBits)
        if imageFile.size > end {
            try imageFile.resize(to: end)
            try imageFile.flush()
        }
        guard isLazy, !health.isCorrupt, headerSector[79] & 1 == 1 else { return }
        try imageFile.flush()
        var sector = headerSector
        sector[79] &= ~UInt8(QCOW2.Incompatible.dirty.rawValue)
        try writeHeader(sector)
    }
}
