internal import Bytes
internal import Storage

/// What can be wrong with a block's place in the file.
enum VHDFlaw {
    case pastEnd
    case inMetadata
    case duplicate
    case overlap

    /// A sentence about it.
    var what: StaticString {
        switch self {
        case .pastEnd: "a block lies past the end of the file"
        case .inMetadata: "a block overlaps the image's own tables"
        case .duplicate: "two entries of the block allocation table have the same block"
        case .overlap: "two blocks overlap"
        }
    }

    /// Returns what opening for writing says about it.
    func error(_ block: UInt64, _ table: VHDTable) -> ImageError {
        ImageError(
            .corrupt, what, at: table.entryOffset(block).rawValue, detail: CheckReport.entry("BAT", block))
    }
}

/// Which places of the file blocks occupy.
///
/// All blocks of an image are of one size, so that a stretch of the file of that size has the beginning of one block at
/// most: an array of such stretches finds whatever overlaps, and has the blocks in the order of the file.
struct VHDOwnership {
    /// No more stretches than this, 64 MiB of memory: 2 TiB in blocks of 128 KiB.
    private static let largest: UInt64 = 1 << 24

    /// The first sector of the block that begins in a stretch; 0, where no block can be, for none.
    private var starts: [UInt32]
    /// The sectors of a block and its bitmap.
    private let stride: UInt64

    /// Prepares for blocks of `table` in the first `end` bytes of a file. Throws `.unsupported` when they are too many.
    init(_ table: VHDTable, end: UInt64) throws(ImageError) {
        stride = table.runBytes / 512
        let count = min(end / 512, UInt64(UInt32.max)) / stride + 1
        guard count <= Self.largest else {
            throw ImageError(
                .unsupported, "the blocks are too small for a file of this size to be checked or written",
                detail: table.blockSize.counted("byte"))
        }
        starts = [UInt32](repeating: 0, count: Int(count))
    }

    /// Notes the block that begins at sector `start`, or says what is in the way. A start past the end is nobody's.
    mutating func claim(_ start: UInt32) -> VHDFlaw? {
        let index = Int(UInt64(start) / stride)
        guard index < starts.count else { return .pastEnd }
        guard starts[index] == 0 else { return starts[index] == start ? .duplicate : .overlap }
        if index > 0, starts[index - 1] != 0, UInt64(starts[index - 1]) + stride > UInt64(start) { return .overlap }
        if index + 1 < starts.count, starts[index + 1] != 0, UInt64(start) + stride > UInt64(starts[index + 1]) {
            return .overlap
        }
        starts[index] = start
        return nil
    }

    /// The blocks' first bytes, ascending.
    var ascending: some Sequence<UInt64> { starts.lazy.filter { $0 != 0 }.map { UInt64($0) * 512 } }
}

/// A walk over the whole block allocation table.
struct VHDScan {
    private static let pieceBytes = 64 << 10

    /// The places that are taken: by the disk's blocks, as far as they are where they may be, and by what else lies where
    /// a block could.
    var owned: VHDOwnership
    /// How many blocks of the disk are where they may be.
    var blockCount: UInt64 = 0
    /// How many entries past the disk's last block are not unused.
    private(set) var strayCount: UInt64 = 0
    /// The first of them.
    private(set) var firstStray: UInt64?
    /// The byte after the last one that belongs to a block or to metadata.
    var usedEnd: UInt64

    private let table: VHDTable
    private let parts: [VHDMetadataPart]
    private let metadataEnd: UInt64
    private let dataEnd: UInt64

    /// Reads the table from the file; `parts` is the metadata that blocks must not overlap, `dataEnd` where they must
    /// end. Every block of the disk whose entry is wrong is given to `found`. Throws `.io`, `.corrupt`, `.unsupported`
    /// for too many blocks, and what `found` throws.
    init(
        _ storage: any Storage, _ table: VHDTable, parts: [VHDMetadataPart], dataEnd: UInt64,
        found: (_ flaw: VHDFlaw, _ block: UInt64) throws(ImageError) -> Void
    ) throws(ImageError) {
        owned = try VHDOwnership(table, end: dataEnd)
        usedEnd = parts.map(\.end).max() ?? 0
        metadataEnd = usedEnd
        self.table = table
        self.parts = parts
        self.dataEnd = dataEnd
        var block: UInt64 = 0
        while block < table.entryCount {
            block = try afterHole(storage, from: block)
            let count = Int(min(table.entryCount - block, UInt64(Self.pieceBytes / 4)))
            let bytes = try storage.bytes(at: table.entryOffset(block), count: count * 4)
            let entries = bytes.span.bytes
            for index in 0..<count {
                let entry: UInt32 = entries.big(at: index * 4)
                guard entry != VHDTable.unused else { continue }
                let number = block + UInt64(index)
                guard number < table.blockCount else {
                    addStray(entry, number)
                    continue
                }
                if let flaw = claim(entry, number) { try found(flaw, number) } else { blockCount += 1 }
            }
            block += UInt64(count)
        }
    }

    /// The first entry from `block` on that has to be read: past the disk's last block a hole of the host, all of whose
    /// entries are 0, is stepped over, since such a table may be gigabytes of nothing.
    private mutating func afterHole(_ storage: any Storage, from block: UInt64) throws(ImageError) -> UInt64 {
        guard block > table.blockCount else { return block }
        let data = try storage.nextData(from: table.entryOffset(block))?.rawValue ?? .max
        let next = min(table.entryCount, max(block, (max(data, table.offset) - table.offset) / 4))
        noteStrays(next - block, from: block)
        return next
    }

    /// Takes the place of `block`, or says what is wrong with it.
    private mutating func claim(_ entry: UInt32, _ block: UInt64) -> VHDFlaw? {
        let start = UInt64(entry) * 512
        let end = start + table.byteCount(of: block)
        if end > dataEnd { return .pastEnd }
        if start < metadataEnd, parts.contains(where: { start < $0.end && $0.start < end }) { return .inMetadata }
        if let flaw = owned.claim(entry) { return flaw }
        usedEnd = max(usedEnd, start + table.runBytes)
        return nil
    }

    /// Notes an entry past the disk's last block. What it names may be a block of a disk that was larger: its place is
    /// not given to others where it can be one, and nothing else follows from it.
    private mutating func addStray(_ entry: UInt32, _ number: UInt64) {
        noteStrays(1, from: number)
        _ = claim(entry, number)
    }

    private mutating func noteStrays(_ count: UInt64, from number: UInt64) {
        strayCount += count
        if firstStray == nil, count > 0 { firstStray = number }
    }

    /// Where blocks fit between the first block and the last one, ascending: what was freed before, or lost by a crash.
    /// The front of the file is left alone, where other programs may have put what is not known here.
    func freePlaces(_ table: VHDTable, parts: [VHDMetadataPart]) -> [UInt32] {
        var places: [UInt32] = []
        var position: UInt64?
        for start in owned.ascending {
            if var place = position.map(table.alignedStart) {
                while place + table.runBytes <= start {
                    if let part = parts.first(where: { place < $0.end && $0.start < place + table.runBytes }) {
                        place = table.alignedStart(part.end)
                    } else {
                        if let sector = UInt32(exactly: place / 512) { places.append(sector) }
                        place += table.pitch
                    }
                }
            }
            position = start + table.runBytes
        }
        return places
    }
}
