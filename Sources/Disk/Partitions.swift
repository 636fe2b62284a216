package import Bytes
package import Storage

/// One partition of a disk.
package struct Partition: Sendable {
    /// The number that Linux gives it: GPT slots from 1, MBR primaries 1–4, logical ones from 5.
    package var number: Int
    /// The name for its file: "p1".
    package var name: String
    /// What it holds by its table: a GUID for GPT, "0x83" for MBR.
    package var type: String
    /// The name that the table gives it; empty for MBR.
    package var label: String
    /// Where it lies on the disk, in bytes.
    package var range: ByteRange
    /// The partition as a disk.
    package var disk: Disk
}

/// A partition as a table has it.
struct TableEntry: Equatable {
    var number: Int
    var type: String
    var label = ""
    var range: ByteRange
}

extension Disk {
    /// The partitions of the disk by its GPT, the GPT's backup, or its MBR, in ascending order of their numbers; empty
    /// where there is no table. What lies outside the disk is left out, overlaps are given as they are. Throws what
    /// reading throws.
    package func partitions() throws(ImageError) -> [Partition] {
        var result: [Partition] = []
        for entry in try tableEntries() {
            let title = "\(name), partition \(entry.number)"
            guard !entry.range.isEmpty, let disk = part(entry.range, name: title) else { continue }
            result.append(
                Partition(
                    number: entry.number, name: "p\(entry.number)", type: entry.type, label: entry.label,
                    range: entry.range, disk: disk))
        }
        return result
    }

    private func tableEntries() throws(ImageError) -> [TableEntry] {
        guard size >= 512 else { return [] }
        let first = try bytes(at: 0, count: 512)
        guard first.span.bytes.little(UInt16.self, at: 510) == 0xAA55 else { return [] }
        // The image says which sectors the disk has; a disk that was copied from another kind may disagree.
        let sizes: [UInt64] = logicalSectorSize == 4096 ? [4096, 512] : [512, 4096]
        if MBR.isProtective(first) {
            for sector in sizes {
                if let entries = try GPT(disk: self, sector: sector).entries() { return entries }
            }
            // What the protective table shows is the place of the GPT, no partition.
            return []
        }
        for sector in sizes {
            if let entries = try MBR(disk: self, sector: sector).entries(first) { return entries }
        }
        return []
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
