internal import Bytes
internal import Storage
internal import Synchronization

/// The driver of a fixed image: the disk in one piece from byte 0, then the footer. Every write is one in place, and
/// nothing else ever changes.
final class VHDFixedDriver: FormatDriver {
    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference? = nil

    /// The only one of `files`: an array retains what it hands out.
    private let storage: any Storage
    private let isWritable: Bool

    init(_ storage: any Storage, shape: DiskShape, isWritable: Bool) {
        self.storage = storage
        self.isWritable = isWritable
        files = [storage]
        self.shape = shape
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        try HostHoles.map(storage, at: HostOffset(runs.remaining.lower), detail, into: &runs)
    }

    func prepare() throws(ImageError) {
        guard isWritable else { throw .openForReading }
    }

    func inPlace(_ runs: inout ExtentList) throws(ImageError) {
        guard isWritable else { return }
        let rest = runs.remaining
        runs.append(.data(file: .image, offset: HostOffset(rest.lower)), length: rest.length)
    }

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        guard isWritable else { throw .openForReading }
        var runs = ExtentList(for: range)
        try inPlace(&runs)
        return WritePlan(range: range, runs: runs, fills: [], token: 0)
    }

    func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError) {
        guard isWritable else { throw .openForReading }
    }

    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        guard isWritable else { throw .openForReading }
        return ByteRange(range.lower, to: range.lower)
    }
}

/// The driver of dynamic and differencing images: a table of blocks, each with a bitmap of its sectors.
final class VHDSparseDriver: FormatDriver {
    /// How many entries of the table are looked at at once; they fit the stack.
    private static let chunkEntries = 256
    /// How many bytes of a bitmap are looked at at once.
    private static let pieceBytes = 512
    /// How many bytes of table and bitmaps one call of `map` reads before it answers with what it has.
    private static let walkBytes = 1 << 20
    /// What a look at a bitmap costs of that at least: it may be a page of the file for a single byte.
    private static let lookBytes = 512

    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference?

    let table: VHDTable
    let cache: MetadataCache
    let order: BitOrder
    /// Where blocks must end in the file at present, in bytes: at the footer.
    let dataEnd: Atomic<UInt64>
    /// What writing needs; nil where the image is open for reading.
    let session: VHDSession?

    private let metadata: [VHDMetadataPart]
    private let unwritten: Extent.Place
    /// Whether a block that the image holds is read as data from end to end. Only in a dynamic image.
    private let ignoresBitmaps: Bool

    /// Takes what `open` has checked.
    init(
        _ storage: any Storage, shape: DiskShape, _ parts: VHDParts, _ bitmap: FormatOptions.VHDBitmap,
        cache: MetadataCache, session: VHDSession? = nil
    ) {
        files = [storage]
        self.shape = shape
        parent = parts.parent?.reference
        metadata = parts.read
        order = parts.order
        var table = parts.table
        table.metadataEnd = metadata.map(\.end).max() ?? 0
        self.table = table
        // A clear bit means "ask the parent" in a differencing image; elsewhere it promises zeros.
        unwritten = parent == nil ? .zero : .hole
        ignoresBitmaps = bitmap == .ignore && parent == nil
        dataEnd = Atomic(table.dataEnd)
        self.cache = cache
        self.session = session
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        try walk(byBitmaps: !ignoresBitmaps, into: &runs)
    }

    /// Answers `map` by the bitmaps, or without a look at them. For a write they are always asked: a sector that is
    /// written where its bit is clear would stay absent to whoever goes by the bits.
    func walk(byBitmaps: Bool, into runs: inout ExtentList) throws(ImageError) {
        var budget = Self.walkBytes
        do throws(ImageError) {
            while !runs.remaining.isEmpty, budget > 0 {
                guard try mapBlocks(byBitmaps, into: &runs, budget: &budget) else { return }
            }
        } catch {
            // Damage further on ends the answer: the walk that reaches it first says so.
            guard runs.count > 0 else { throw error }
        }
    }

    // MARK: - The table

    /// Adds the blocks of one chunk of the table; false when the list takes no more.
    private func mapBlocks(
        _ byBitmaps: Bool, into runs: inout ExtentList, budget: inout Int
    ) throws(ImageError) -> Bool {
        let first = runs.remaining.lower >> table.blockShift
        let last = (runs.remaining.upper - 1) >> table.blockShift
        if first == last {
            return try mapBlock(first, entry(of: first), byBitmaps, into: &runs, budget: &budget)
        }
        let count = Int(min(last - first + 1, UInt64(Self.chunkEntries)))
        budget -= count * 4
        return try withUnsafeTemporaryAllocation(byteCount: count * 4, alignment: 4) { bytes throws(ImageError) in
            try cache.read(at: table.entryOffset(first), into: bytes)
            return try mapChunk(first, UnsafeRawBufferPointer(bytes), byBitmaps, into: &runs, budget: &budget)
        }
    }

    /// Adds the blocks from `first` on, whose entries are `entries`; false when the list takes no more.
    private func mapChunk(
        _ first: UInt64, _ entries: UnsafeRawBufferPointer, _ byBitmaps: Bool, into runs: inout ExtentList,
        budget: inout Int
    ) throws(ImageError) -> Bool {
        let count = entries.count / 4
        var index = 0
        while index < count {
            var unused = index
            while unused < count, entries.load(fromByteOffset: unused * 4, as: UInt32.self) == VHDTable.unused {
                unused += 1
            }
            if unused > index {
                let end = (first + UInt64(unused)) << table.blockShift
                guard runs.append(.hole, length: end - runs.remaining.lower) else { return false }
                index = unused
            } else {
                let entry = UInt32(bigEndian: entries.load(fromByteOffset: index * 4, as: UInt32.self))
                let block = first + UInt64(index)
                guard try mapBlock(block, entry, byBitmaps, into: &runs, budget: &budget), budget > 0 else {
                    return false
                }
                index += 1
            }
        }
        return true
    }

    /// Adds what is left of the range in `block`; false when the list takes no more.
    private func mapBlock(
        _ block: UInt64, _ entry: UInt32, _ byBitmaps: Bool, into runs: inout ExtentList, budget: inout Int
    ) throws(ImageError) -> Bool {
        let within = runs.remaining.lower & (table.blockSize - 1)
        let length = min(runs.remaining.length, table.blockSize - within)
        guard entry != VHDTable.unused else { return runs.append(.hole, length: length) }
        let bitmap = UInt64(entry) * 512
        try check(block, at: bitmap)
        guard byBitmaps else {
            let data = HostOffset(bitmap + table.bitmapBytes + within)
            return runs.append(.data(file: .image, offset: data), length: length)
        }
        return try mapSectors(from: within, to: within + length, bitmap: bitmap, into: &runs, budget: &budget)
    }

    /// Throws `.corrupt` unless the block that begins at byte `start` lies in the file and overlaps no metadata.
    func check(_ block: UInt64, at start: UInt64) throws(ImageError) {
        let end = start + table.byteCount(of: block)
        guard end <= dataEnd.load(ordering: .acquiring) else {
            throw ImageError(.corrupt, VHDFlaw.pastEnd.what, at: table.entryOffset(block).rawValue)
        }
        guard start < table.metadataEnd else { return }
        for part in metadata where start < part.end && part.start < end {
            throw ImageError(.corrupt, VHDFlaw.inMetadata.what, at: table.entryOffset(block).rawValue)
        }
    }

    // MARK: - The bitmap

    /// Adds the bytes `start` to `end` of the block whose bitmap begins at byte `bitmap` of the file; false when the list
    /// takes no more or the walk has become long.
    private func mapSectors(
        from start: UInt64, to end: UInt64, bitmap: UInt64, into runs: inout ExtentList, budget: inout Int
    ) throws(ImageError) -> Bool {
        var position = start
        while position < end {
            let firstByte = position / (512 * 8)
            let lastByte = (end - 1) / (512 * 8)
            let count = Int(min(lastByte - firstByte + 1, UInt64(Self.pieceBytes)))
            let pieceEnd = min(end, (firstByte + UInt64(count)) * (512 * 8))
            budget -= max(count, Self.lookBytes)
            let goesOn = try withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bits throws(ImageError) in
                try cache.read(at: HostOffset(bitmap + firstByte), into: bits)
                let origin = firstByte * (512 * 8)
                let data = bitmap + table.bitmapBytes + origin
                return mapPiece(
                    UnsafeRawBufferPointer(bits), from: position - origin, to: pieceEnd - origin, data: data,
                    into: &runs)
            }
            guard goesOn, budget > 0 else { return false }
            position = pieceEnd
        }
        return true
    }

    /// Adds the bytes `start` to `end`, counted from the first bit of `bits`, whose data begins at byte `data` of the
    /// file; false when the list takes no more.
    private func mapPiece(
        _ bits: UnsafeRawBufferPointer, from start: UInt64, to end: UInt64, data: UInt64, into runs: inout ExtentList
    ) -> Bool {
        var position = start
        let lastBit = Int(end.dividedRoundingUp(by: 512))
        while position < end {
            let bit = Int(position / 512)
            let run = Bitmap.run(bits, from: bit, to: lastBit, order: order)
            let runEnd = min(end, UInt64(bit + run.length) * 512)
            let place: Extent.Place =
                run.isSet ? .data(file: .image, offset: HostOffset(data + position)) : unwritten
            let goesOn = runs.append(place, length: runEnd - position)
            guard goesOn else { return false }
            position = runEnd
        }
        return true
    }
}
