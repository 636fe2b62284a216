internal import Bytes
internal import Storage

extension QCOW2.Driver {
    /// What `FormatDriver.inPlace` says: clusters, or subclusters, that have bytes of their own and whose flags say that
    /// nothing else refers to them; those of a data file whenever they are mapped. What may be metadata, by a crafted
    /// entry, and what reaches past the end of the file is left to `reserve`, which looks closely.
    func inPlace(_ runs: inout ExtentList) throws(ImageError) {
        guard let writer else { return }
        try writer.health.check()
        while !runs.isComplete {
            let position = runs.remaining.lower
            let place = tables.l1Offset + (position >> tables.tableBits) * 8
            var entry: UInt64 = 0
            try readWord(at: place, into: &entry)
            let table = try tables.l2Table(entry, at: place, fileSize: imageFile.size)
            guard table != 0, entry >> 63 == 1 || rules.hasDataFile else { return }
            guard try addInPlace(of: table, writer.filter, to: &runs) else { return }
        }
    }

    /// Adds what one L2 table describes, from the start of what is missing; false where that ends before the table does.
    private func addInPlace(
        of table: UInt64, _ filter: QCOW2.RegionFilter, to runs: inout ExtentList
    ) throws(ImageError) -> Bool {
        let wordsEach: UInt64 = rules.hasSubclusters ? 2 : 1
        var index = (runs.remaining.lower >> tables.clusterBits) & (tables.entriesPerTable - 1)
        while index < tables.entriesPerTable, !runs.isComplete {
            let clusters = (runs.range.upper - 1) >> tables.clusterBits - runs.remaining.lower >> tables.clusterBits + 1
            let count = min(tables.entriesPerTable - index, clusters, UInt64(Self.batchWords) / wordsEach)
            let place = table + index << tables.entryBits
            let more = try withWords(at: place, count: Int(count * wordsEach)) { words throws(ImageError) in
                for entry in 0..<Int(count) {
                    let first = entry * Int(wordsEach)
                    let second = wordsEach == 2 ? UInt64(bigEndian: words[first + 1]) : 0
                    let entryPlace = place + UInt64(first) * 8
                    guard try addInPlace(UInt64(bigEndian: words[first]), second, at: entryPlace, filter, to: &runs)
                    else { return false }
                }
                return true
            }
            guard more else { return false }
            index += count
        }
        return true
    }

    /// Adds what one entry describes; false where that is not all of its cluster.
    private func addInPlace(
        _ word: UInt64, _ second: UInt64, at place: UInt64, _ filter: QCOW2.RegionFilter, to runs: inout ExtentList
    ) throws(ImageError) -> Bool {
        let within = runs.remaining.lower & (tables.clusterSize - 1)
        let state = try rules.state(word, second, at: place, guest: runs.remaining.lower - within)
        guard case .cluster(let host, let isCopied) = state.host, isCopied || rules.hasDataFile,
            rules.hasDataFile || !filter.mayContain(host >> tables.clusterBits)
        else { return false }
        let index = within >> rules.subclusterBits
        let count = UInt64((~(state.allocated >> UInt32(truncatingIfNeeded: index))).trailingZeroBitCount)
        let end = min((index + count) << rules.subclusterBits, tables.clusterSize)
        let size = dataFile.size
        guard end > within, host + within < size else { return false }
        let held = min(end - within, size - host - within)
        let more = runs.append(.data(file: dataSlot, offset: HostOffset(host + within)), length: held)
        return more && within + held == tables.clusterSize
    }
}
