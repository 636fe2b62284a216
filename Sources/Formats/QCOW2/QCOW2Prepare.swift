internal import Bytes
internal import Storage

/// Making an image ready for the first change of a session.
extension QCOW2.WriteState {
    /// What `FormatDriver.prepare` says: the refcount table and the places of all metadata are read and must not contradict
    /// each other, then the header stops claiming what a change will make untrue. May be called again when it failed.
    func prepare() throws(ImageError) {
        guard !isReady else { return }
        try imageFile.refresh()
        firstSize = imageFile.size
        headerSector = try imageFile.bytes(at: HostOffset(0), count: 512)
        try readTable()
        fresh = max(1, firstSize.dividedRoundingUp(by: clusterSize))
        cursor = reusesSpace ? 1 : fresh
        try regions.replace(with: metadata(), clusterBits: clusterBits)
        guard try refcount(of: 0) > 0 else {
            throw ImageError(.corrupt, "the header has refcount 0; check the image before writing to it")
        }
        try announce()
        isReady = true
    }

    /// Reads the refcount table; the header was checked at open. Throws `.corrupt` for impossible entries.
    private func readTable() throws(ImageError) {
        let sector = headerSector
        tableOffset = sector.span.bytes.big(at: 48)
        let clusters = UInt64(sector.span.bytes.big(UInt32.self, at: 56))
        guard clusters > 0, clusters << clusterBits <= 8 << 20, tableOffset >= clusterSize,
            QCOW2.Header.isPlace(tableOffset, bytes: clusters << clusterBits, alignedTo: clusterSize)
        else { throw ImageError(.corrupt, "the refcount table is at an impossible place", at: tableOffset) }
        let raw = try imageFile.bytes(at: HostOffset(tableOffset), count: Int(clusters << clusterBits))
        let span = raw.span.bytes
        var entries: [UInt64] = []
        entries.reserveCapacity(raw.count / 8)
        for index in 0..<(raw.count / 8) {
            let entry: UInt64 = span.big(at: index * 8)
            if entry != 0 { try checkBlock(entry, at: tableOffset + UInt64(index) * 8) }
            entries.append(entry)
        }
        blocks = entries
    }

    private func checkBlock(_ offset: UInt64, at place: UInt64) throws(ImageError) {
        guard offset & (clusterSize - 1) == 0, offset < 1 << 56 else {
            throw ImageError(.corrupt, "an entry of the refcount table has reserved bits set", at: place)
        }
        guard imageFile.holds(HostOffset(offset), count: clusterSize) else {
            throw ImageError(.corrupt, "an entry of the refcount table leads past the end of the file", at: place)
        }
    }

    /// Where all metadata of the image lies that a write could hit.
    private func metadata() throws(ImageError) -> [QCOW2.Regions.Run] {
        var runs = [
            clusters(0, bytes: clusterSize), clusters(tableOffset, bytes: UInt64(blocks.count) * 8),
            clusters(header.l1Offset, bytes: UInt64(header.l1Size) * 8),
        ]
        runs += fixed.map { clusters($0.offset.rawValue, bytes: $0.length) }
        for block in blocks where block != 0 { runs.append(clusters(block, bytes: clusterSize)) }
        let piece = 4096
        var done = 0
        while done < Int(header.l1Size) {
            let count = min(Int(header.l1Size) - done, piece / 8)
            let place = header.l1Offset + UInt64(done) * 8
            let raw = try bytes(at: place, count: count * 8)
            let span = raw.span.bytes
            for index in 0..<count {
                let table = try tables.l2Table(
                    span.big(at: index * 8), at: place + UInt64(index) * 8, fileSize: imageFile.size)
                if table != 0 { runs.append(clusters(table, bytes: clusterSize)) }
            }
            done += count
        }
        return runs
    }

    private func clusters(_ offset: UInt64, bytes: UInt64) -> QCOW2.Regions.Run {
        QCOW2.Regions.Run(first: offset >> clusterBits, count: bytes.dividedRoundingUp(by: clusterSize))
    }

    /// Clears the autoclear bits whose promises are not kept here: all but that of a raw data file, the bitmaps' too, which
    /// whoever knows them takes for out of date then. Sets the dirty bit where refcounts are lazy. Durable on return.
    private func announce() throws(ImageError) {
        guard header.version >= 3 else { return }
        var sector = headerSector
        for index in 88..<95 { sector[index] = 0 }
        sector[95] &= 2
        if isLazy { sector[79] |= UInt8(QCOW2.Incompatible.dirty.rawValue) }
        guard sector != headerSector else { return }
        try writeHeader(sector)
    }
}
