internal import Bytes
internal import Storage

/// The GUID partition table of a disk (UEFI specification, 5.3): in sector 1, and a copy in the last sector.
struct GPT {
    private static let mostEntries: UInt64 = 1024
    private static let mostEntryBytes: UInt64 = 4096

    let disk: Disk
    /// The logical sector size in bytes.
    let sector: UInt64

    /// The used entries of the table, or of its copy where the table is damaged; nil where neither is whole. Throws what
    /// reading throws where neither can be read.
    func entries() throws(ImageError) -> [TableEntry]? {
        let sectors = disk.size / sector
        guard sectors >= 3 else { return nil }
        var failure: ImageError?
        do throws(ImageError) {
            if let entries = try table(at: 1) { return entries }
        } catch { failure = error }
        if let entries = try table(at: sectors - 1) { return entries }
        if let failure { throw failure }
        return nil
    }

    /// The entries of the table whose header is in sector `place`; nil where its signature, place or sums are wrong.
    private func table(at place: UInt64) throws(ImageError) -> [TableEntry]? {
        let bytes = try disk.bytes(at: place * sector, count: Int(sector))
        let header = bytes.span.bytes
        guard header.hasASCII("EFI PART"), header.little(UInt64.self, at: 24) == place else { return nil }
        let headerBytes = Int(header.little(UInt32.self, at: 12))
        guard headerBytes >= 92, headerBytes <= bytes.count else { return nil }
        var sum = CRC32()
        sum.add(header, at: 0, count: 16)
        sum.addZeros(4)
        sum.add(header, at: 20, count: headerBytes - 20)
        guard sum.value == header.little(UInt32.self, at: 16) else { return nil }
        return try array(
            at: header.little(at: 72), count: UInt64(header.little(UInt32.self, at: 80)),
            entryBytes: UInt64(header.little(UInt32.self, at: 84)), checksum: header.little(at: 88))
    }

    private func array(
        at first: UInt64, count: UInt64, entryBytes: UInt64, checksum: UInt32
    ) throws(ImageError) -> [TableEntry]? {
        guard entryBytes >= 128, entryBytes.isPowerOfTwo, entryBytes <= Self.mostEntryBytes,
            count > 0, count <= Self.mostEntries, let start = first.checkedMultiplying(by: sector),
            let end = start.checkedAdding(count * entryBytes), end <= disk.size
        else { return nil }
        let bytes = try disk.bytes(at: start, count: Int(count * entryBytes))
        let table = bytes.span.bytes
        var sum = CRC32()
        sum.add(table, at: 0, count: bytes.count)
        guard sum.value == checksum else { return nil }
        return (0..<Int(count)).compactMap { entry(table, at: $0 * Int(entryBytes), number: $0 + 1) }
    }

    /// One entry; nil for an unused one and for one whose sectors are not on the disk.
    private func entry(_ table: RawSpan, at offset: Int, number: Int) -> TableEntry? {
        let type = GUID(table, at: offset)
        let first: UInt64 = table.little(at: offset + 32)
        let last: UInt64 = table.little(at: offset + 40)
        guard type != .zero, first <= last, let after = last.checkedAdding(1),
            let start = first.checkedMultiplying(by: sector), let end = after.checkedMultiplying(by: sector),
            end <= disk.size
        else { return nil }
        return TableEntry(
            number: number, type: type.microsoftText, label: label(table, at: offset + 56),
            range: ByteRange(start, to: end))
    }

    /// The name of an entry: 36 units of UTF-16, ended by a zero.
    private func label(_ table: RawSpan, at offset: Int) -> String {
        var units: [UInt16] = []
        for index in 0..<36 {
            let unit: UInt16 = table.little(at: offset + index * 2)
            if unit == 0 { break }
            units.append(unit)
        }
        return String(decoding: units, as: UTF16.self)
    }
}
