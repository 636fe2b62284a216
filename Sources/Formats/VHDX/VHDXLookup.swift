internal import Bytes
internal import Storage

/// Entries of the block allocation table and bits of the sector bitmaps, read through the cache and checked.
struct VHDXLookup: Sendable {
    /// Where the entries are.
    let table: VHDXTable
    /// Where no block may lie.
    let regions: VHDXRegions
    /// The file as its log leaves it.
    let view: any Storage
    /// What the table and the bitmaps are read through.
    let cache: MetadataCache

    /// How many bytes of a sector bitmap are looked at together: 4096 sectors.
    private static let bitmapBatch = 512

    // MARK: - Entries

    /// The entry at `index` of the table. Throws `.io`.
    func entry(at index: UInt64) throws(ImageError) -> VHDXEntry {
        var word: UInt64 = 0
        var failure: ImageError?
        withUnsafeMutableBytes(of: &word) { buffer in
            do throws(ImageError) { try cache.read(at: table.place(ofEntry: index), into: buffer) } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return VHDXEntry(word: UInt64(littleEndian: word))
    }

    /// The entry of a payload block. Throws `.io`.
    func entry(of block: UInt64) throws(ImageError) -> VHDXEntry { try entry(at: table.entry(of: block)) }

    /// Where a block lies that its entry says is present. Throws `.corrupt` where that cannot be.
    func check(_ entry: VHDXEntry, of block: UInt64) throws(ImageError) -> UInt64 {
        try check(entry.offset, table.length(of: block), at: table.entry(of: block))
        return entry.offset
    }

    private func check(_ offset: UInt64, _ length: UInt64, at entry: UInt64) throws(ImageError) {
        guard offset.checkedAdding(length) != nil else {
            throw ImageError(
                .corrupt, "a block lies past the end of the file", at: table.place(ofEntry: entry).rawValue)
        }
        if let owner = regions.collision(at: offset, length: length) {
            throw ImageError(.corrupt, owner.collision, at: table.place(ofEntry: entry).rawValue)
        }
    }

    /// What is wrong with an entry in a reserved state.
    func reservedState(_ block: UInt64) -> ImageError {
        ImageError(
            .corrupt, "a block's entry has a reserved state or reserved bits set",
            at: table.place(ofEntry: table.entry(of: block)).rawValue)
    }

    // MARK: - Sector bitmaps

    /// Where the sector bitmap is that covers a block. Throws `.corrupt` where there is none.
    func bitmap(of block: UInt64) throws(ImageError) -> UInt64 {
        let index = table.bitmapEntry(of: block)
        let entry = try entry(at: index)
        guard entry.isBitmapPresent else {
            throw ImageError(
                .corrupt, "a block is partially present, but its sector bitmap is not present",
                at: table.place(ofEntry: index).rawValue)
        }
        try check(entry.offset, VHDXTable.bitmapBytes, at: index)
        guard view.holds(HostOffset(entry.offset), count: VHDXTable.bitmapBytes) else {
            throw ImageError(.corrupt, "the file ends within a sector bitmap; it is truncated", at: entry.offset)
        }
        return entry.offset
    }

    /// Whether the sector at `position` is in this file, and how many sectors from it on, up to `end`, are alike. Bit 0
    /// of byte 0 is the chunk's first sector ([MS-VHDX] 2.4).
    func sectorRun(
        _ bitmap: UInt64, from position: UInt64, to end: UInt64
    ) throws(ImageError) -> (isHere: Bool, count: UInt64) {
        var bit = table.bitmapBit(of: position)
        let limit = table.bitmapBit(of: end - 1) + 1
        var run: (isHere: Bool, count: UInt64) = (false, 0)
        var failure: ImageError?
        withUnsafeTemporaryAllocation(byteCount: Self.bitmapBatch, alignment: 8) { bytes in
            while bit < limit {
                let first = bit / 64 * 8
                let part = UnsafeMutableRawBufferPointer(
                    rebasing: bytes[0..<min(Self.bitmapBatch, Int((limit - 1) / 64 * 8 + 8 - first))])
                do throws(ImageError) { try cache.read(at: HostOffset(bitmap + first), into: part) } catch {
                    failure = error
                    return
                }
                let partEnd = min(limit, (first + UInt64(part.count)) * 8)
                let found = Bitmap.run(
                    UnsafeRawBufferPointer(part), from: Int(bit - first * 8), to: Int(partEnd - first * 8),
                    order: .lowestFirst)
                if run.count > 0, found.isSet != run.isHere { return }
                run = (found.isSet, run.count + UInt64(found.length))
                bit += UInt64(found.length)
                if bit < partEnd { return }
            }
        }
        if let failure { throw failure }
        return run
    }
}
