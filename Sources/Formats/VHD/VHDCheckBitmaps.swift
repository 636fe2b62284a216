internal import Bytes
internal import Storage

/// Looks in a dynamic image for data that the blocks' bitmaps call absent.
///
/// By the specification a clear bit promises a sector of zeros. XenServer, VirtualBox and what follows the specification
/// read zeros there; XenServer has to, since on volumes it leaves old bytes in the rest of a new block. Windows and QEMU
/// do not look at the bits of a dynamic disk, so that a writer which never set them goes unnoticed there. Which of the two
/// an image is nobody can tell from its bytes.
struct VHDBitmapCheck {
    private static let pieceBytes = 64 << 10

    private let storage: any Storage
    private let table: VHDTable
    private let order: BitOrder

    /// A check of the blocks of a dynamic image, none of which overlaps another.
    init(_ storage: any Storage, _ parts: VHDParts) {
        self.storage = storage
        table = parts.table
        order = parts.order
    }

    /// Adds every block that holds such data to `report`. Reads each byte of the file once at the most, and of a block
    /// only what its bitmap calls absent. Throws `.io`.
    func run(_ report: inout CheckReport) throws(ImageError) {
        var block: UInt64 = 0
        while block < table.blockCount {
            let count = Int(min(table.blockCount - block, UInt64(Self.pieceBytes / 4)))
            let entries = try storage.bytes(at: table.entryOffset(block), count: count * 4)
            for index in 0..<count {
                let entry: UInt32 = entries.span.bytes.big(at: index * 4)
                let number = block + UInt64(index)
                guard entry != VHDTable.unused, try hidesData(number, UInt64(entry) * 512) else { continue }
                report.add(
                    .note,
                    "a block holds data that its bitmap calls absent; Windows and QEMU show it (-o vhd-bitmap=ignore)",
                    at: table.entryOffset(number).rawValue, CheckReport.entry("BAT", number))
            }
            block += UInt64(count)
        }
    }

    /// Returns whether a sector of `block`, whose bitmap begins at byte `start`, holds data and has a clear bit.
    private func hidesData(_ block: UInt64, _ start: UInt64) throws(ImageError) -> Bool {
        let bytes = table.byteCount(of: block) - table.bitmapBytes
        let sectors = Int(bytes.dividedRoundingUp(by: 512))
        let bitmap = try storage.bytes(at: HostOffset(start), count: (sectors + 7) / 8)
        var sector = 0
        while sector < sectors {
            let run = bitmap.withUnsafeBytes { Bitmap.run($0, from: sector, to: sectors, order: order) }
            let next = sector + run.length
            let data = start + table.bitmapBytes
            let end = min(UInt64(next) * 512, bytes)
            if !run.isSet, try holdsData(from: data + UInt64(sector) * 512, to: data + end) { return true }
            sector = next
        }
        return false
    }

    /// Returns whether anything but zeros lies between two bytes of the file. Holes of the host are stepped over.
    private func holdsData(from start: UInt64, to end: UInt64) throws(ImageError) -> Bool {
        var position = start
        while position < end {
            guard let data = try storage.nextData(from: HostOffset(position)), data.rawValue < end else { return false }
            position = max(position, data.rawValue)
            let count = Int(min(end - position, UInt64(Self.pieceBytes)))
            let bytes = try storage.bytes(at: HostOffset(position), count: count)
            if !bytes.span.bytes.isZero(at: 0, count: count) { return true }
            position += UInt64(count)
        }
        return false
    }

    /// What a user should know who opens an image to read it by its bitmaps: nil where the beginning of the disk gives no
    /// reason. Looks at the first sectors alone, where a partition table or a filesystem begins: that none of them was ever
    /// written and they hold data all the same is no chance. What cannot be read gives no reason either.
    func remark() -> String? {
        do throws(ImageError) { guard try hidesBeginning() else { return nil } } catch { return nil }
        return "the disk begins with data that its sector bitmap calls absent, so that zeros are read there; "
            + "-o vhd-bitmap=ignore reads the data, as Windows and QEMU do"
    }

    private func hidesBeginning() throws(ImageError) -> Bool {
        let bytes = try storage.bytes(at: table.entryOffset(0), count: 4)
        let entry: UInt32 = bytes.span.bytes.big(at: 0)
        let start = UInt64(entry) * 512
        let length = table.byteCount(of: 0)
        guard entry != VHDTable.unused, storage.holds(HostOffset(start), count: length) else { return false }
        guard try storage.bytes(at: HostOffset(start), count: 1)[0] == 0 else { return false }
        let data = start + table.bitmapBytes
        return try holdsData(from: data, to: data + min(length - table.bitmapBytes, 4096))
    }
}
