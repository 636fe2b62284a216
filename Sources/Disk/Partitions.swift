internal import Bytes
package import Storage
internal import Synchronization

/// A partition table that was read, and what was written until then.
struct KnownTable {
    var table: PartitionTable
    /// The count of the writer's changes before the table was read.
    var changes: UInt64
}

extension Disk {
    /// Returns the partitions by the disk's GPT, the GPT's backup, or its MBR, as the Linux kernel reads them. A table is
    /// read once, and again after a write. Throws what reading throws where the table cannot be read.
    package func partitionTable() throws(ImageError) -> PartitionTable {
        let changes = writer?.changes.load(ordering: .acquiring) ?? 0
        if let known = knownTable.withLock({ $0 }), known.changes == changes { return known.table }
        let reader = PartitionTableReader(disk: self, unit: open.tableSectorSize, checksBackup: false)
        let table = try reader.read()
        knownTable.withLock { $0 = KnownTable(table: table, changes: changes) }
        return table
    }

    /// Returns the partitions and everything that is odd about the table, the backup of a GPT included, for `info`. A
    /// table that cannot be read is a table with a problem.
    package func partitionReport() -> PartitionTable {
        let reader = PartitionTableReader(disk: self, unit: open.tableSectorSize, checksBackup: true)
        do throws(ImageError) { return try reader.read() } catch {
            return PartitionTable(
                sectorSize: open.tableSectorSize ?? UInt64(logicalSectorSize),
                problem: "the table cannot be read: \(error)")
        }
    }

    /// Returns a partition as a disk; nil where it does not lie on this disk.
    package func partition(_ entry: PartitionEntry) -> Disk? {
        part(entry.range, name: "\(name), partition \(entry.number)")
    }

    /// `count` bytes of the disk from `offset` on. The caller has bounded `count`. Throws like `read`.
    func bytes(at offset: UInt64, count: Int) throws(ImageError) -> [UInt8] {
        guard let range = ByteRange(at: offset, length: UInt64(count)), range.upper <= size else {
            throw ImageError(.outOfRange, "a read outside the disk", at: offset, file: name)
        }
        var result = [UInt8](repeating: 0, count: count)
        var failure: ImageError?
        result.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { try read(range, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return result
    }
}
