internal import Bytes
internal import Storage

extension QCOW2.Checker {
    private typealias Tables = QCOW2.Tables

    private static let copied: UInt64 = 1 << 63
    private static let reservedInL1: UInt64 = 0x7F00_0000_0000_01FF
    private static let reservedInL2: UInt64 = 0x3F00_0000_0000_01FE

    /// Counts everything that the image refers to, but for the refcount structures.
    func countAll() throws(ImageError) {
        try mark(0, bytes: clusterSize, as: .exclusive, from: nil)
        var l1Tables = QCOW2.TableSweep()
        var l1Clusters = QCOW2.TableSweep()
        let addTable = { (offset: UInt64, bytes: UInt64) in
            l1Tables.add(offset, bytes: bytes)
            l1Clusters.add(offset, bytes: bytes.roundedUp(toPowerOfTwo: self.clusterSize) ?? bytes)
        }
        let snapshots = try snapshotTables()
        addTable(header.l1Offset, UInt64(header.l1Size) * 8)
        for table in snapshots { addTable(table.offset, table.bytes) }
        self.l1Tables = ([header.l1Offset] + snapshots.map(\.offset)).sorted()
        for stretch in l1Clusters.stretches() {
            try mark(stretch.offset, bytes: stretch.bytes, weight: stretch.weight, as: .exclusive, from: nil)
        }
        for stretch in l1Tables.stretches() {
            try forEachEntry(at: stretch.offset, bytes: stretch.bytes) { (place, entry, _) throws(ImageError) in
                try countL1(entry, at: place, weight: stretch.weight)
            }
        }
        for (offset, weight) in l2Weights.sorted(by: { $0.key < $1.key }) {
            try forEachEntry(at: offset, bytes: clusterSize, width: wordBytes) {
                (place, first, second) throws(ImageError) in
                try countL2(first, second, at: place, weight: weight)
            }
        }
        try countBitmaps()
    }

    // MARK: - Names

    /// The name of the L1 entry at byte `place` of the file.
    func nameOfL1(_ place: UInt64) -> String {
        let start = l1Tables.last { $0 <= place } ?? header.l1Offset
        return CheckReport.entry("L1 table", at: start, (place - start) / 8)
    }

    /// The name of the L2 entry at byte `place` of the file: its table lies on a cluster.
    func nameOfL2(_ place: UInt64) -> String {
        let start = place & ~(clusterSize - 1)
        return CheckReport.entry("L2 table", at: start, (place - start) / wordBytes)
    }

    // MARK: - Tables

    private func countL1(_ entry: UInt64, at place: UInt64, weight: UInt64) throws(ImageError) {
        if entry & Self.reservedInL1 != 0 {
            addDamage("an L1 entry has reserved bits set", at: place, nameOfL1(place), count: weight)
        }
        let offset = entry & Tables.offsetMask
        guard offset != 0 else {
            addDamage("an L1 entry has flags and names no L2 table", at: place, nameOfL1(place), count: weight)
            return
        }
        guard offset & (clusterSize - 1) == 0 else {
            addDamage(
                "an L1 entry names an L2 table that is not on a cluster", at: place, nameOfL1(place), count: weight)
            return
        }
        guard offset <= fileSize, clusterSize <= fileSize - offset else {
            addDamage(
                "an L1 entry names an L2 table past the end of the file", at: place, nameOfL1(place), count: weight,
                isPastEnd: true)
            return
        }
        try mark(offset, bytes: clusterSize, weight: weight, as: .l2Table, from: place, nameOfL1(place))
        guard l2Weights[offset] != nil || l2Weights.count < Self.l2Limit else {
            throw ImageError(.unsupported, "the image has more L2 tables than a check can remember")
        }
        let sum = (l2Weights[offset] ?? 0).addingReportingOverflow(weight)
        l2Weights[offset] = sum.overflow ? .max : sum.partialValue
    }

    private func countL2(_ entry: UInt64, _ second: UInt64, at place: UInt64, weight: UInt64) throws(ImageError) {
        if entry >> 62 & 1 == 1 {
            try countCompressed(entry, second, at: place, weight: weight)
            return
        }
        let zeroFlag: UInt64 = header.version >= 3 && wordBytes == 8 ? 0 : 1
        if entry & (Self.reservedInL2 | zeroFlag) != 0 {
            addDamage("an L2 entry has reserved bits set", at: place, nameOfL2(place), count: weight)
        }
        let offset = entry & Tables.offsetMask
        guard offset != 0 || (hasDataFile && entry & Self.copied != 0) else {
            if second & 0xFFFF_FFFF != 0 {
                addDamage(
                    "an L2 entry has allocated subclusters without a host cluster", at: place, nameOfL2(place),
                    count: weight)
            }
            return
        }
        guard second >> 32 & second == 0 else {
            addDamage(
                "an L2 entry has a subcluster that is both allocated and zero", at: place, nameOfL2(place),
                count: weight)
            return
        }
        guard offset & (clusterSize - 1) == 0 else {
            addDamage(
                "an L2 entry names a host offset that is not on a cluster", at: place, nameOfL2(place), count: weight)
            // Nobody can say which cluster is meant, so neither of the two is given to anything else.
            if !hasDataFile {
                try mark(offset, bytes: clusterSize, weight: weight, as: .data, from: place, nameOfL2(place))
            }
            return
        }
        guard !hasDataFile else { return }
        try mark(offset, bytes: clusterSize, weight: weight, as: .data, from: place, nameOfL2(place))
    }

    /// Each cluster that a compressed one touches is referenced once by it.
    private func countCompressed(
        _ entry: UInt64, _ second: UInt64, at place: UInt64, weight: UInt64
    ) throws(ImageError) {
        if entry & Self.copied != 0 {
            addDamage("a compressed cluster has the COPIED flag", at: place, nameOfL2(place), count: weight)
        }
        guard !hasDataFile else {
            addDamage("an image with a data file has a compressed cluster", at: place, nameOfL2(place), count: weight)
            return
        }
        guard second == 0 else {
            addDamage("a compressed cluster has subclusters", at: place, nameOfL2(place), count: weight)
            return
        }
        let offsetBits = 62 - (header.clusterBits - 8)
        let offset = entry & (1 << offsetBits - 1)
        let sectors = (entry & ~Self.copied) >> offsetBits & (1 << (header.clusterBits - 8) - 1) + 1
        try mark(offset, bytes: sectors * 512 - (offset & 511), weight: weight, as: .data, from: place, nameOfL2(place))
    }

    // MARK: - Snapshots

    /// The L1 tables of all snapshots. Counts the snapshot table itself.
    private func snapshotTables() throws(ImageError) -> [(offset: UInt64, bytes: UInt64)] {
        guard header.snapshotCount > 0 else { return [] }
        if hasDataFile { addDamage("an image with a data file has snapshots", at: 60) }
        var tables: [(offset: UInt64, bytes: UInt64)] = []
        var position = header.snapshotsOffset
        for index in 0..<header.snapshotCount {
            guard storage.holds(HostOffset(position), count: 40), position - header.snapshotsOffset <= 64 << 20 else {
                addDamage(
                    "the snapshot table ends before its last snapshot", at: position,
                    detail: "\(index) of \(header.snapshotCount) snapshots", isPastEnd: true)
                break
            }
            let name = CheckReport.entry("snapshot table", UInt64(index))
            let fixed = try storage.bytes(at: HostOffset(position), count: 40)
            let span = fixed.span.bytes
            let extra = UInt64(span.big(UInt32.self, at: 36))
            let offset: UInt64 = span.big(at: 0)
            let bytes = UInt64(span.big(UInt32.self, at: 8)) * 8
            if header.version >= 3, extra < 16 {
                report.add(.corruption, "a snapshot does not record the size of its disk", at: position, name)
            }
            if extra > 1024 {
                report.add(.corruption, "a snapshot has more than 1024 bytes of extra data", at: position, name)
            }
            if bytes > 32 << 20 || !QCOW2.Header.isPlace(offset, bytes: bytes, alignedTo: clusterSize) {
                addDamage("a snapshot's L1 table is at an impossible place", at: position, name, isPastEnd: true)
            } else if offset + bytes > fileSize, offset + bytes - fileSize >= clusterSize {
                addDamage("a snapshot's L1 table lies past the end of the file", at: position, name, isPastEnd: true)
            } else {
                tables.append((offset, bytes))
            }
            let names = UInt64(span.big(UInt16.self, at: 12)) + UInt64(span.big(UInt16.self, at: 14))
            position += (40 + extra + names + 7) & ~7
        }
        try mark(
            header.snapshotsOffset, bytes: min(position, fileSize) - min(header.snapshotsOffset, fileSize),
            as: .exclusive, from: 64)
        return tables
    }

    // MARK: - Bitmaps

    /// Directory, tables and clusters of the persistent bitmaps. Without the autoclear bit they are worthless, and their
    /// clusters are leaks, as QEMU has it.
    private func countBitmaps() throws(ImageError) {
        guard extensions.bitmapCount > 0, let directory = extensions.bitmapDirectory else { return }
        guard try mark(directory.offset, bytes: directory.bytes, as: .exclusive, from: nil) else { return }
        var tables = QCOW2.TableSweep()
        var clusters = QCOW2.TableSweep()
        var position = directory.offset
        let end = directory.offset + directory.bytes
        for index in 0..<extensions.bitmapCount {
            guard position <= end, end - position >= 24, storage.holds(HostOffset(position), count: 24) else {
                addDamage(
                    "the bitmap directory ends before its last bitmap", at: position,
                    detail: "\(index) of \(extensions.bitmapCount) bitmaps", isPastEnd: true)
                break
            }
            let fixed = try storage.bytes(at: HostOffset(position), count: 24)
            let span = fixed.span.bytes
            let offset: UInt64 = span.big(at: 0)
            let bytes = UInt64(span.big(UInt32.self, at: 8)) * 8
            if QCOW2.Header.isPlace(offset, bytes: bytes, alignedTo: clusterSize), offset + bytes <= fileSize {
                tables.add(offset, bytes: bytes)
                clusters.add(offset, bytes: bytes.roundedUp(toPowerOfTwo: clusterSize) ?? bytes)
            } else {
                addDamage(
                    "a bitmap's table is at an impossible place", at: position,
                    CheckReport.entry("bitmap directory", UInt64(index)), isPastEnd: true)
            }
            let rest = UInt64(span.big(UInt16.self, at: 18)) + UInt64(span.big(UInt32.self, at: 20))
            position += (24 + rest + 7) & ~7
        }
        for stretch in clusters.stretches() {
            try mark(stretch.offset, bytes: stretch.bytes, weight: stretch.weight, as: .exclusive, from: nil)
        }
        for stretch in tables.stretches() {
            try forEachEntry(at: stretch.offset, bytes: stretch.bytes) { (place, entry, _) throws(ImageError) in
                let number = (place - stretch.offset) / 8
                try countBitmapEntry(entry, number, of: stretch.offset, at: place, weight: stretch.weight)
            }
        }
    }

    private func countBitmapEntry(
        _ entry: UInt64, _ number: UInt64, of table: UInt64, at place: UInt64, weight: UInt64
    ) throws(ImageError) {
        let offset = entry & Tables.offsetMask
        // Bit 0 says that all bits are set, where there is no cluster.
        guard entry & 0xFF00_0000_0000_01FE == 0, offset == 0 || entry & 1 == 0, offset & (clusterSize - 1) == 0 else {
            addDamage(
                "an entry of a bitmap's table is impossible", at: place,
                CheckReport.entry("bitmap table", at: table, number), count: weight)
            return
        }
        guard offset != 0 else { return }
        try mark(
            offset, bytes: clusterSize, weight: weight, as: .exclusive, from: place,
            CheckReport.entry("bitmap table", at: table, number))
    }
}
