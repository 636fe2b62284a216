internal import Bytes
internal import Storage

/// What `check` mends in a sparse image: its footers, and the space behind its last block. Nothing else in a VHD is there
/// twice, so that nothing else can be put right without guessing.
struct VHDRepair {
    private let storage: any Storage
    private let footer: VHDFooter
    private let end: UInt64

    /// Repairs with `footer`, the one that counts; the data ends at byte `end`.
    init(_ storage: any Storage, _ footer: VHDFooter, end: UInt64) {
        self.storage = storage
        self.footer = footer
        self.end = end
    }

    /// Writes the footer right behind the data, and cuts the file there. Throws `.noSpace`, `.readOnly` and `.io`.
    func putFooterBack() throws(ImageError) {
        try VHDSession.moveFooter(footer.bytes, to: end, in: storage)
    }

    /// Writes the copy at byte 0. Throws `.readOnly` and `.io`.
    func putCopyBack() throws(ImageError) {
        try storage.write(at: HostOffset(0), footer.bytes)
        try storage.flush()
    }
}

extension VHDBatmap {
    /// Calls `body` with every block of the disk that the map calls full and whose bitmap says otherwise, and where its
    /// mark is in the file, in bytes. Throws `.io` and `.corrupt`.
    func forEachFalseMark(
        _ parts: VHDParts, _ cache: MetadataCache, _ body: (_ block: UInt64, _ place: UInt64) -> Void
    ) throws(ImageError) {
        let table = parts.table
        let count = min(table.blockCount, byteCount.checkedMultiplying(by: 8) ?? .max)
        for block in 0..<count {
            guard let place = markOffset(block) else { return }
            var mark: UInt8 = 0
            try withUnsafeMutableBytes(of: &mark) { bytes throws(ImageError) in try cache.read(at: place, into: bytes) }
            let mask: UInt8 = parts.order == .lowestFirst ? 1 << UInt8(block & 7) : 0x80 >> UInt8(block & 7)
            guard mark & mask != 0 else { continue }
            if try !isFull(block, table, parts.order, cache) { body(block, place.rawValue) }
        }
    }

    /// Whether every sector of `block` is there, or the image does not hold it.
    private func isFull(
        _ block: UInt64, _ table: VHDTable, _ order: BitOrder, _ cache: MetadataCache
    ) throws(ImageError) -> Bool {
        var entry: UInt32 = 0
        try withUnsafeMutableBytes(of: &entry) { bytes throws(ImageError) in
            try cache.read(at: table.entryOffset(block), into: bytes)
        }
        guard entry != VHDTable.unused else { return true }
        let sectors = Int((table.byteCount(of: block) - table.bitmapBytes).dividedRoundingUp(by: 512))
        let start = UInt64(UInt32(bigEndian: entry)) * 512
        return try withUnsafeTemporaryAllocation(byteCount: (sectors + 7) / 8, alignment: 8) {
            bits throws(ImageError) in
            try cache.read(at: HostOffset(start), into: bits)
            let run = Bitmap.run(UnsafeRawBufferPointer(bits), from: 0, to: sectors, order: order)
            return run.isSet && run.length == sectors
        }
    }
}
