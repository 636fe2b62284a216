internal import Bytes
internal import Storage

/// One walk over the whole table before anything is written: what of the file belongs to whom.
///
/// A file in which two things claim one place, or a block lies where none can, is not written: every write could destroy
/// something else.
struct VHDXScan {
    private static let pieceBytes: UInt64 = 64 << 10

    private let storage: any Storage
    private let table: VHDXTable
    private let regions: VHDXRegions
    private var space = VHDXSpace()

    /// The space of the file, whose log is empty. Throws `.corrupt` for what forbids writing, with the place of the entry;
    /// and `.io`.
    static func space(
        _ storage: any Storage, _ table: VHDXTable, _ regions: VHDXRegions
    ) throws(ImageError) -> VHDXSpace {
        var scan = VHDXScan(storage: storage, table: table, regions: regions)
        try scan.run()
        return scan.space
    }

    private init(storage: any Storage, table: VHDXTable, regions: VHDXRegions) {
        self.storage = storage
        self.table = table
        self.regions = regions
    }

    private mutating func run() throws(ImageError) {
        space.extend(to: storage.size.dividedRoundingUp(by: VHDX.unit), isClean: false)
        try walk()
        // A last block that reaches past the end of the file has added units, so this comes behind the walk.
        for span in regions.reserved { space.block(span.units) }
    }

    private mutating func walk() throws(ImageError) {
        let end = table.offset + table.entryCount * VHDXTable.entryBytes
        var position = table.offset
        while position < end {
            // Zero entries claim nothing, so holes of the table are stepped over.
            guard let data = try storage.nextData(from: HostOffset(position)), data.rawValue < end else { return }
            position = max(position, data.rawValue / VHDXTable.entryBytes * VHDXTable.entryBytes)
            let count = Int(min(Self.pieceBytes, end - position))
            let piece = try storage.bytes(at: HostOffset(position), count: count)
            try add(piece, from: (position - table.offset) / VHDXTable.entryBytes)
            position += UInt64(count)
        }
    }

    private mutating func add(_ piece: [UInt8], from first: UInt64) throws(ImageError) {
        let ratio = table.chunkRatio
        for index in 0..<(piece.count / Int(VHDXTable.entryBytes)) {
            let word: UInt64 = piece.span.bytes.little(at: index * Int(VHDXTable.entryBytes))
            guard word != 0 else { continue }
            let entry = VHDXEntry(word: word)
            let (chunk, rest) = (first + UInt64(index)).quotientAndRemainder(dividingBy: ratio + 1)
            if rest == ratio {
                try addBitmap(entry, at: first + UInt64(index))
            } else {
                let block = chunk * ratio + rest
                if block < table.blockCount { try add(entry, of: block, at: first + UInt64(index)) }
            }
        }
    }

    private mutating func add(_ entry: VHDXEntry, of block: UInt64, at index: UInt64) throws(ImageError) {
        switch entry.content {
        case .absent: return
        case .zeros:
            // UNDEFINED and UNMAPPED may keep their place; with ZERO an offset means nothing ([MS-VHDX] 2.5.1.1).
            guard entry.word & 7 != 2, entry.offset > 0 else { return }
        case .full: break
        case .partial: try checkBitmap(of: block)
        case .invalid: throw failure("a block's entry has a reserved state or reserved bits set", at: index)
        }
        try claim(entry, length: table.blockSize, needed: table.length(of: block), at: index)
    }

    private mutating func addBitmap(_ entry: VHDXEntry, at index: UInt64) throws(ImageError) {
        guard table.hasParent else {
            // Disks without a parent have no use for one, but some carry them: the space is left alone.
            guard entry.offset.checkedAdding(VHDXTable.bitmapBytes) != nil else { return }
            space.block((entry.offset / VHDX.unit)..<(entry.offset / VHDX.unit + 1))
            return
        }
        // NOT_PRESENT: what else the entry holds means nothing.
        guard entry.word & 0xFFFFF != 0 else { return }
        guard entry.isBitmapPresent else {
            throw failure("a sector bitmap's entry has a reserved state or reserved bits set", at: index)
        }
        try claim(entry, length: VHDXTable.bitmapBytes, needed: VHDXTable.bitmapBytes, at: index)
    }

    private func checkBitmap(of block: UInt64) throws(ImageError) {
        let index = table.bitmapEntry(of: block)
        guard table.hasParent else {
            throw failure("a block is partially present in a disk without a parent", at: table.entry(of: block))
        }
        let word = try storage.bytes(at: table.place(ofEntry: index), count: Int(VHDXTable.entryBytes))
        guard VHDXEntry(word: word.span.bytes.little(at: 0)).isBitmapPresent else {
            throw failure("a block is partially present, but its sector bitmap is not present", at: index)
        }
    }

    private mutating func claim(
        _ entry: VHDXEntry, length: UInt64, needed: UInt64, at index: UInt64
    ) throws(ImageError) {
        guard storage.holds(HostOffset(entry.offset), count: needed),
            let end = entry.offset.checkedAdding(length)
        else { throw failure("a block lies past the end of the file", at: index) }
        if let owner = regions.collision(at: entry.offset, length: length) {
            throw failure(owner.collision, at: index)
        }
        guard space.claim((entry.offset / VHDX.unit)..<(end / VHDX.unit)) else {
            throw failure("two blocks share one place in the file", at: index)
        }
    }

    private func failure(_ what: StaticString, at index: UInt64) -> ImageError {
        ImageError(
            .corrupt, what, at: table.place(ofEntry: index).rawValue,
            detail: "the image can be opened for reading, not for writing")
    }
}
