internal import Bytes
internal import Storage

/// The partition table in the first sector of a disk, as PCs have had it: four primaries, and a chain of logical
/// partitions inside one of an extended type.
struct MBR {
    private static let firstEntry = 446
    private static let entryBytes = 16
    private static let mostLogical = 128
    private static let extendedTypes: [UInt8] = [0x05, 0x0F, 0x85]

    let disk: Disk
    /// The logical sector size in bytes.
    let sector: UInt64

    /// One slot of a table, in sectors.
    private struct Slot {
        var status: UInt8
        var type: UInt8
        var first: UInt64
        var count: UInt64
    }

    /// Whether the sector's table says that the disk has a GPT.
    static func isProtective(_ bytes: [UInt8]) -> Bool {
        (0..<4).contains { bytes[firstEntry + $0 * entryBytes + 4] == 0xEE }
    }

    /// The partitions of the table in `bytes`, the disk's first 512; nil when they are not a table: a boot sector of a
    /// filesystem has the same signature, and code or text where the slots would be. Throws what reading throws.
    func entries(_ bytes: [UInt8]) throws(ImageError) -> [TableEntry]? {
        let slots = Self.slots(bytes)
        let used = slots.filter { $0.type != 0 || $0.count != 0 }
        guard !used.isEmpty, used.allSatisfy(isPlausible) else { return nil }
        var result: [TableEntry] = []
        var chains: [Slot] = []
        for (index, slot) in slots.enumerated() where slot.type != 0 && slot.count != 0 {
            // Linux shows the extended partition as well, but it holds a table and no data of its own.
            if Self.extendedTypes.contains(slot.type) {
                chains.append(slot)
            } else if let entry = entry(slot, from: 0, number: index + 1) {
                result.append(entry)
            }
        }
        for chain in chains { try addLogical(of: chain, to: &result) }
        return result
    }

    /// Follows the chain of extended boot records, each with one partition and the place of the next record relative to
    /// the first. Stops at the first record that is damaged, was seen before, or is one too many.
    private func addLogical(of extended: Slot, to result: inout [TableEntry]) throws(ImageError) {
        var record = extended.first
        var seen: Set<UInt64> = []
        var number = max(5, (result.last?.number ?? 0) + 1)
        while seen.count < Self.mostLogical, seen.insert(record).inserted {
            guard let start = record.checkedMultiplying(by: sector), let end = start.checkedAdding(512),
                end <= disk.size
            else { return }
            let bytes = try disk.bytes(at: start, count: 512)
            guard bytes.span.bytes.little(UInt16.self, at: 510) == 0xAA55 else { return }
            let slots = Self.slots(bytes)
            for slot in slots where slot.type != 0 && slot.count != 0 && !Self.extendedTypes.contains(slot.type) {
                guard let entry = entry(slot, from: record, number: number) else { continue }
                result.append(entry)
                number += 1
            }
            let next = slots.first { Self.extendedTypes.contains($0.type) && $0.count != 0 }
            guard let next, let place = extended.first.checkedAdding(next.first) else { return }
            record = place
        }
    }

    private static func slots(_ bytes: [UInt8]) -> [Slot] {
        let table = bytes.span.bytes
        return (0..<4).map { index in
            let offset = firstEntry + index * entryBytes
            return Slot(
                status: table.byte(at: offset), type: table.byte(at: offset + 4),
                first: UInt64(table.little(UInt32.self, at: offset + 8)),
                count: UInt64(table.little(UInt32.self, at: offset + 12)))
        }
    }

    /// Whether a used slot is what a partitioning program writes.
    private func isPlausible(_ slot: Slot) -> Bool {
        guard slot.status == 0 || slot.status == 0x80, slot.type != 0, slot.count > 0, slot.first > 0 else {
            return false
        }
        // Both factors are at most 32 bits wide, so the products fit.
        return (slot.first + slot.count) * sector <= disk.size
    }

    private func entry(_ slot: Slot, from origin: UInt64, number: Int) -> TableEntry? {
        guard let first = origin.checkedAdding(slot.first), let start = first.checkedMultiplying(by: sector),
            let range = ByteRange(at: start, length: slot.count * sector), range.upper <= disk.size
        else { return nil }
        let digits = String(slot.type, radix: 16)
        return TableEntry(number: number, type: "0x" + (digits.count < 2 ? "0" : "") + digits, range: range)
    }
}
