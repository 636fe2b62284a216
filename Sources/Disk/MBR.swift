internal import Bytes
internal import Storage

/// The partition table in the first sector of a disk, as PCs have had it: four primaries, and a chain of logical
/// partitions inside those of an extended type. Each slot is judged on its own, as Linux does.
struct MBR {
    private static let firstSlot = 446
    private static let slotBytes = 16
    private static let protectiveType: UInt8 = 0xEE
    private static let extendedTypes: [UInt8] = [0x05, 0x0F, 0x85]
    /// Linux goes no further in all chains together.
    private static let mostLogical = 251
    /// So many records without a partition end a chain.
    private static let mostEmptyRecords = 100

    let disk: Disk
    /// The size of a sector in bytes: 512 or 4096.
    let sector: UInt64

    /// One slot of a table, in sectors.
    private struct Slot {
        var status: UInt8
        var type: UInt8
        var first: UInt64
        var count: UInt64

        var isExtended: Bool { MBR.extendedTypes.contains(type) }
    }

    // MARK: - The first sector

    /// Returns whether the sector ends in the signature that tables and boot sectors have.
    static func hasSignature(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.little(UInt16.self, at: 510) == 0xAA55 }

    /// Returns whether a slot announces a GPT: of type 0xEE, from sector 1 on; its size does not count (UEFI
    /// specification, 5.2.3, and Linux).
    static func isProtective(_ bytes: [UInt8]) -> Bool {
        slots(bytes).contains { $0.type == protectiveType && $0.first == 1 }
    }

    /// The beginning of a record of type 0xEE that is not where it belongs; nil where there is none.
    static func misplacedProtectiveRecord(_ bytes: [UInt8]) -> UInt64? {
        slots(bytes).first { $0.type == protectiveType }?.first
    }

    /// The last sectors that the protective records cover: where the backup of a GPT was when they were written.
    static func protectedEnds(_ bytes: [UInt8]) -> [UInt64] {
        slots(bytes).filter { $0.type == protectiveType && $0.first == 1 }.map(\.count)
    }

    /// The number of the first slot whose status is neither 0 nor 0x80; nil where all are possible. A boot sector of a
    /// filesystem has the signature too, and code or text where the slots would be.
    static func slotWithOddStatus(_ bytes: [UInt8]) -> Int? {
        slots(bytes).firstIndex { $0.status != 0 && $0.status != 0x80 }.map { $0 + 1 }
    }

    private static func slots(_ bytes: [UInt8]) -> [Slot] {
        let table = bytes.span.bytes
        return (0..<4).map { index in
            let offset = firstSlot + index * slotBytes
            return Slot(
                status: table.byte(at: offset), type: table.byte(at: offset + 4),
                first: UInt64(table.little(UInt32.self, at: offset + 8)),
                count: UInt64(table.little(UInt32.self, at: offset + 12)))
        }
    }

    // MARK: - Partitions

    /// The table in `bytes`, the disk's first 512, whose slots all have a possible status.
    func table(_ bytes: [UInt8]) -> PartitionTable {
        let id: UInt32 = bytes.span.bytes.little(at: 440)
        let table = PartitionTable(kind: .mbr, sectorSize: sector, diskID: "0x" + Self.hex(UInt64(id), digits: 8))
        var collected = Collected(table: table)
        for (index, slot) in Self.slots(bytes).enumerated() where slot.count != 0 {
            // Linux shows an extended partition as well, as 1 KiB, for boot loaders: it holds a table and no data.
            guard !slot.isExtended else { continue }
            add(slot, from: 0, number: index + 1, to: &collected)
        }
        for slot in Self.slots(bytes) where slot.count != 0 && slot.isExtended {
            addLogical(of: slot, to: &collected)
        }
        return collected.finished()
    }

    /// The table so far, and what was noticed on the way.
    private struct Collected {
        var table: PartitionTable
        var nextLogical = 5
        var seen: Set<UInt64> = []
        var cut: [Int] = []
        var outside: [Int] = []

        mutating func remark(_ text: String) {
            if !table.remarks.contains(text) { table.remarks.append(text) }
        }

        func finished() -> PartitionTable {
            var result = table
            if !cut.isEmpty {
                result.remarks.append("cut at the end of the disk: \(PartitionTable.words(cut))")
            }
            if !outside.isEmpty {
                result.remarks.append("left out, since past the end of the disk: \(PartitionTable.words(outside))")
            }
            return result
        }
    }

    /// Adds the partition of a slot whose first sector counts from `origin`, cut where the disk ends. One that begins
    /// behind it is left out.
    private func add(_ slot: Slot, from origin: UInt64, number: Int, to collected: inout Collected) {
        // Sums of two numbers of 33 bits, times a sector: they fit.
        let start = (origin + slot.first) * sector
        let end = min(start + slot.count * sector, disk.size)
        guard start < end else { return collected.outside.append(number) }
        if end - start < slot.count * sector { collected.cut.append(number) }
        collected.table.entries.append(
            PartitionEntry(
                number: number, type: "0x" + Self.hex(UInt64(slot.type), digits: 2), isBootable: slot.status == 0x80,
                range: ByteRange(start, to: end)))
    }

    /// Follows the chain of extended boot records, each with the partitions of its own and the place of the next record
    /// relative to the first.
    private func addLogical(of extended: Slot, to collected: inout Collected) {
        var (record, size) = (extended.first, extended.count)
        var empty = 0
        var isFirst = true
        while empty < Self.mostEmptyRecords {
            guard collected.seen.insert(record).inserted else {
                return collected.remark("its chain of logical partitions is a loop")
            }
            guard let slots = slots(ofRecord: record, &collected) else { return }
            empty += 1
            let next = slots.first { $0.isExtended && $0.count != 0 }.map {
                (start: extended.first + $0.first, size: $0.count)
            }
            // The first record has no size of its own: it ends where the next one begins.
            let nextStart = next.map { isFirst && $0.start > record ? $0.start : .max } ?? .max
            let end = min(record + size, nextStart)
            isFirst = false
            for (index, slot) in slots.enumerated() where slot.count != 0 && !slot.isExtended {
                guard index < 2 || fits(slot, record: record, end: end, in: extended) else { continue }
                guard collected.nextLogical - 5 < Self.mostLogical else {
                    return collected.remark("only the first \(Self.mostLogical) logical partitions are shown")
                }
                add(slot, from: record, number: collected.nextLogical, to: &collected)
                collected.nextLogical += 1
                empty = 0
            }
            guard let next else { return }
            (record, size) = next
        }
    }

    /// Whether the third or fourth entry of a record is meant: it lies inside the record's own part, which ends at sector
    /// `end`, of the extended partition, and its status is possible. OS/2 used these entries; some programs never clear
    /// them, and what stood there before means nothing. Linux only asks for the place, and takes all of the extended
    /// partition for the first record's own.
    private func fits(_ slot: Slot, record: UInt64, end: UInt64, in extended: Slot) -> Bool {
        (slot.status == 0 || slot.status == 0x80)
            && record + slot.first + slot.count <= min(end, extended.first + extended.count)
    }

    /// The slots of an extended boot record; nil where there is none, with a remark.
    private func slots(ofRecord record: UInt64, _ collected: inout Collected) -> [Slot]? {
        let start = record * sector
        guard let end = start.checkedAdding(512), end <= disk.size else {
            collected.remark("its chain of logical partitions leaves the disk at sector \(record)")
            return nil
        }
        guard let bytes = try? disk.bytes(at: start, count: 512) else {
            collected.remark("the record of logical partitions in sector \(record) cannot be read")
            return nil
        }
        guard Self.hasSignature(bytes) else {
            collected.remark(
                "sector \(record) holds no record of logical partitions, although the table names one there")
            return nil
        }
        return Self.slots(bytes)
    }

    private static func hex(_ value: UInt64, digits: Int) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
}
