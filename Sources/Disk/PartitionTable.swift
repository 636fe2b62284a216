package import Bytes
internal import Storage

/// One partition as a table has it.
package struct PartitionEntry: Sendable, Equatable {
    /// The number that Linux gives it: GPT slots from 1, MBR primaries 1–4, logical ones from 5.
    package var number: Int
    /// What it holds by its table: a GUID in lower case for GPT, "0x83" for MBR.
    package var type: String
    /// The name that the table gives it; empty for MBR.
    package var label = ""
    /// The GUID of the partition itself; nil for MBR.
    package var id: String?
    /// Whether the table marks it for booting: MBR's active flag, GPT's legacy BIOS attribute.
    package var isBootable = false
    /// Where it lies on the disk, in bytes; never empty, and within the disk.
    package var range: ByteRange

    /// The usual name of the type ("Linux filesystem"); nil for one that is not widely known.
    package var typeName: String? { PartitionTypes.name(of: type) }
}

/// What the partition table of a disk says, read as the Linux kernel reads it, and what is wrong with it.
package struct PartitionTable: Sendable, Equatable {
    /// The two kinds that there are.
    package enum Kind: String, Sendable {
        /// A GUID partition table (UEFI specification, 5.3).
        case gpt
        /// The table in the first sector of PCs, with its chain of logical partitions.
        case mbr
    }

    /// The kind of the table; nil where there is none that can be used.
    package var kind: Kind?
    /// The size in bytes of the sectors in which the table counts: 512 or 4096.
    package var sectorSize: UInt64
    /// The identifier of the disk in the table: a GUID, or "0x1234abcd".
    package var diskID: String?
    /// The partitions in ascending order of their numbers; overlaps are given as they are.
    package var entries: [PartitionEntry] = []
    /// What is odd about the table, a clause each ("partition 2 reaches past the end of the disk and is cut there").
    package var remarks: [String] = []
    /// Why there is no table that can be used; nil where `kind` is not.
    package var problem: String?

    /// The line for a log: why there is no table, or what is odd about it; nil where nothing is to be said.
    package var report: String? {
        if let problem { return "no partitions: \(problem)" }
        return remarks.isEmpty ? nil : "partition table: " + remarks.joined(separator: "; ")
    }

    /// More partitions than this of one table are not shown. Linux shows those of the first 255 slots.
    static let mostShown = 1024

    /// The words for the partitions with these numbers, which are not empty: "partition 3", "partitions 3, 4 and 9 more".
    static func words(_ numbers: [Int]) -> String {
        let shown = numbers.prefix(8).map(String.init)
        let rest = numbers.count - shown.count
        guard numbers.count > 1 else { return "partition \(shown.joined())" }
        guard rest == 0 else { return "partitions \(shown.joined(separator: ", ")) and \(rest) more" }
        return "partitions \(shown.dropLast().joined(separator: ", ")) and \(shown.last ?? "")"
    }
}

/// Reads the table of one disk.
struct PartitionTableReader {
    let disk: Disk
    /// The unit of the table in bytes as the user named it; nil to find it.
    let unit: UInt64?
    /// Whether the backup of a GPT is looked at where the primary copy is whole.
    let checksBackup: Bool

    /// The units to try, in order. The image says which sectors the disk has; a disk that was copied from another kind
    /// may disagree.
    private var units: [UInt64] {
        if let unit { return [unit] }
        return disk.logicalSectorSize == 4096 ? [4096, 512] : [512, 4096]
    }

    /// Reads the table. Throws what reading throws where nothing can be said without the bytes.
    func read() throws(ImageError) -> PartitionTable {
        guard disk.size >= 512 else { return none("the disk is smaller than a sector") }
        let first = try disk.bytes(at: 0, count: 512)
        guard MBR.hasSignature(first) else { return try withoutSignature() }
        if MBR.isProtective(first) { return try gpt(announcedBy: first) }
        if let slot = MBR.slotWithOddStatus(first) {
            let content = try DiskContent.name(of: disk)
            return none(
                content.map { "the whole disk is \($0); use the disk itself" }
                    ?? "slot \(slot) of the first sector has an impossible status, so it is a boot sector and no table")
        }
        if let start = MBR.misplacedProtectiveRecord(first) {
            return none(
                "the first sector announces a GPT with a record that begins at sector \(start) and not at 1, "
                    + "so Linux looks at neither table; gdisk writes a right one")
        }
        return try mbr(first)
    }

    private func none(_ problem: String) -> PartitionTable {
        PartitionTable(sectorSize: units[0], problem: problem)
    }

    /// Why a disk whose first sector has no signature has no partitions.
    private func withoutSignature() throws(ImageError) -> PartitionTable {
        if let content = try DiskContent.name(of: disk) {
            return none("the whole disk is \(content); use the disk itself")
        }
        for unit in units where GPT(disk: disk, sector: unit).isThere {
            return none(
                "there is a GPT, but the first sector does not announce it (a record of type 0xee from sector 1 on), "
                    + "so Linux does not look at it; gdisk writes such a record")
        }
        return none("the first sector holds no table: it does not end in 55 AA")
    }

    /// The GPT that the protective record in `first` announces, in the first unit in which one is whole.
    private func gpt(announcedBy first: [UInt8]) throws(ImageError) -> PartitionTable {
        var reasons: [(isThere: Bool, text: String)] = []
        var failure: ImageError?
        for unit in units {
            let gpt = GPT(disk: disk, sector: unit)
            let found = gpt.find(backupHints: MBR.protectedEnds(first))
            if let copy = found.copy {
                var table = gpt.table(copy)
                table.remarks += found.remarks
                if checksBackup, copy.place == 1, let remark = gpt.remarkOnBackup(of: copy) {
                    table.remarks.append(remark)
                }
                addRemarkOnUnit(&table)
                return table
            }
            reasons.append((found.isThere, found.problem))
            failure = failure ?? found.failure
        }
        if let failure { throw failure }
        return none(reasons.first { $0.isThere }?.text ?? "the first sector announces a GPT, but there is none")
    }

    /// The MBR in `first`. Its unit is that of the disk; another one is only tried where none of its partitions would
    /// begin on the disk.
    private func mbr(_ first: [UInt8]) throws(ImageError) -> PartitionTable {
        var table = MBR(disk: disk, sector: units[0]).table(first)
        if table.entries.isEmpty, units.count > 1 {
            let other = MBR(disk: disk, sector: units[1]).table(first)
            if !other.entries.isEmpty { table = other }
        }
        if table.entries.isEmpty, table.remarks.isEmpty {
            if let content = try DiskContent.name(of: disk) {
                return none("the whole disk is \(content); use the disk itself")
            }
            table.remarks.append("it is empty")
        }
        addRemarkOnUnit(&table)
        return table
    }

    private func addRemarkOnUnit(_ table: inout PartitionTable) {
        guard table.sectorSize != UInt64(disk.logicalSectorSize) else { return }
        table.remarks.append(
            "it counts in sectors of \(table.sectorSize) bytes, and those of the disk have "
                + "\(disk.logicalSectorSize): loop devices need losetup -b \(table.sectorSize)")
    }
}
