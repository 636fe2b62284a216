internal import Bytes
internal import Storage

/// The driver of an open VHDX.
final class VHDXDriver: FormatDriver {
    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference?

    /// What writes; nil in an image that is open for reading.
    let writer: VHDXWriter?

    private let table: VHDXTable
    private let lookup: VHDXLookup
    private let view: any Storage
    private let replay: VHDXReplay?
    private let cache: MetadataCache
    private let isFixed: Bool

    /// Slot 1: the replayed file, for bytes that are only in the log.
    private static let replayed = FileSlot(rawValue: 1)
    /// How many entries are looked at together.
    private static let batch: UInt64 = 64
    /// After so many blocks the host is asked again whether the table is a hole: 32 KiB of entries.
    private static let stepBlocks: UInt64 = 4096
    /// After so many bytes of entries and sector bitmaps a walk ends early.
    private static let walkBytes: UInt64 = 1 << 20

    /// Reads the parent locator and lays out the table. Throws `.malformed`, `.unsupported`, `.corrupt` or `.io`.
    ///
    /// An image is opened for writing with its log empty.
    init(_ foundation: VHDXFoundation, cacheBytes: Int, isWritable: Bool = false) throws(ImageError) {
        replay = foundation.replay
        view = foundation.view
        isFixed = foundation.metadata.leavesBlocksAllocated
        table = try VHDXTable(foundation.metadata, foundation.regions.table, in: foundation.view)
        if isWritable {
            // The log replaces whole pages of 4 KiB.
            let store = MetadataStore(
                foundation.storage, limitBytes: cacheBytes, granularity: Int(VHDXLog.sectorBytes))
            cache = store.reader
            lookup = VHDXLookup(table: table, regions: foundation.regions, view: view, cache: cache)
            writer = try VHDXWriter(foundation, lookup, store)
        } else {
            cache = MetadataCache(foundation.view, limitBytes: cacheBytes)
            lookup = VHDXLookup(table: table, regions: foundation.regions, view: view, cache: cache)
            writer = nil
        }
        let below = foundation.metadata.hasParent ? try VHDXParent(foundation.view, foundation.metadata.locator) : nil
        parent = below?.reference
        var files: [any Storage] = [foundation.storage]
        if let replay = foundation.replay { files.append(replay) }
        self.files = files
        shape = try foundation.shape(below)
    }

    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
        let limit = runs.range.clipped(to: table.virtualSize)
        var budget = Self.walkBytes
        var nextStep: UInt64 = 0
        while runs.remaining.lower < limit.upper, budget > 0 {
            let position = runs.remaining.lower
            let block = table.block(of: position)
            let last = table.block(of: limit.upper - 1)
            let count = min(last - block + 1, table.blocksInChunk(from: block), Self.batch)
            guard let isEmpty = try walk(block, count: count, detail, &runs, &budget) else {
                // Nothing at all was added where a write changed the first block meanwhile: look again.
                if runs.count == 0 { continue }
                return
            }
            budget -= min(budget, count * VHDXTable.entryBytes)
            // Where the table itself is a hole of the host file, one step covers it. Asked for long ranges only, and once
            // for so many blocks that the entries between fill several pages.
            if isEmpty, block &+ count >= nextStep, last &- block > 4 * Self.stepBlocks {
                guard let after = try stepOverHole(from: block + count, to: last + 1, &runs) else { return }
                nextStep = after + Self.stepBlocks
            }
        }
    }

    /// Adds the runs of `count` blocks of one chunk. Returns whether all of their entries are zero, or nil when the
    /// answer is complete or ends here.
    private func walk(
        _ block: UInt64, count: UInt64, _ detail: MapDetail, _ runs: inout ExtentList, _ budget: inout UInt64
    ) throws(ImageError) -> Bool? {
        var failure: ImageError?
        var isEmpty: Bool?
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(count)) { words in
            do throws(ImageError) {
                try cache.read(
                    at: table.place(ofEntry: table.entry(of: block)), into: UnsafeMutableRawBufferPointer(words))
                isEmpty = try add(UnsafeBufferPointer(words), from: block, detail, &runs, &budget)
            } catch { failure = error }
        }
        if let failure {
            // Damage further on only ends the answer early.
            guard runs.count > 0 else { throw failure }
            return nil
        }
        return isEmpty
    }

    private func add(
        _ words: UnsafeBufferPointer<UInt64>, from block: UInt64, _ detail: MapDetail, _ runs: inout ExtentList,
        _ budget: inout UInt64
    ) throws(ImageError) -> Bool? {
        var isEmpty = true
        for index in 0..<words.count {
            let entry = VHDXEntry(word: UInt64(littleEndian: words[index]))
            let current = block + UInt64(index)
            let position = runs.remaining.lower
            let length = table.start(of: current) + table.length(of: current) - position
            if entry.word != 0 { isEmpty = false }
            let goesOn: Bool
            switch entry.content {
            case .absent: goesOn = runs.append(.hole, length: length)
            case .zeros: goesOn = runs.append(.zero, length: length)
            case .full:
                let offset = try lookup.check(entry, of: current)
                goesOn = try addData(
                    at: offset + (position - table.start(of: current)), length: length, detail, &runs)
            case .partial: goesOn = try addPartial(entry, of: current, length: length, &runs, &budget)
            case .invalid:
                throw lookup.reservedState(current)
            }
            guard goesOn else { return nil }
        }
        return isEmpty
    }

    /// Steps over blocks whose entries the host knows to be zeros, from `block` to `end`. Returns the block after them,
    /// or nil when the answer is complete.
    private func stepOverHole(from block: UInt64, to end: UInt64, _ runs: inout ExtentList) throws(ImageError)
        -> UInt64?
    {
        guard block < end else { return end }
        let first = table.entry(of: block)
        let bytes = (table.entry(of: end - 1) + 1 - first) * VHDXTable.entryBytes
        let hole = try cache.holeLength(at: table.place(ofEntry: first), limit: bytes)
        let after = min(table.block(atEntry: first + hole / VHDXTable.entryBytes), end)
        guard after > block else { return block }
        return runs.append(.hole, length: table.start(of: after) - table.start(of: block)) ? after : nil
    }

    // MARK: - Blocks in the file

    /// Adds bytes that are verbatim in the file, as far as the file reaches. Returns false when nothing more fits.
    private func addData(
        at offset: UInt64, length: UInt64, _ detail: MapDetail, _ runs: inout ExtentList
    ) throws(ImageError) -> Bool {
        let wanted = min(length, runs.remaining.length)
        let size = view.size
        var position = offset
        let end = min(offset + wanted, size)
        while position < end {
            var (source, step) = replay?.source(at: position, limit: end - position) ?? (.file, end - position)
            var place = Extent.Place.zero
            switch source {
            case .zeros: break
            case .log: place = .data(file: Self.replayed, offset: HostOffset(position))
            case .file:
                place = .data(file: .image, offset: HostOffset(position))
                if isFixed, detail == .allocation {
                    let piece = try hostPiece(at: position, limit: step)
                    step = piece.length
                    if piece.isHole { place = .zero }
                }
            }
            guard runs.append(place, length: step) else { return false }
            position += step
        }
        guard end == offset + wanted else {
            throw ImageError(
                .corrupt, "the file ends before a block that it should hold; it is truncated", at: position)
        }
        return !runs.isComplete
    }

    /// Whether the image file has a hole at `position`, and how far that holds, at most `limit` bytes.
    private func hostPiece(at position: UInt64, limit: UInt64) throws(ImageError) -> (isHole: Bool, length: UInt64) {
        guard let data = try files[0].nextData(from: HostOffset(position)), data.rawValue < position + limit else {
            return (true, limit)
        }
        if data.rawValue > position { return (true, data.rawValue - position) }
        let hole = try files[0].nextHole(from: data).rawValue
        return (false, hole > position ? min(limit, hole - position) : limit)
    }

    // MARK: - Sector bitmaps

    /// Adds the runs of a block of which some sectors are here and the others in the parent. In an image that is being
    /// written the entry may have changed before the bits were read, which then belong to another state of the block:
    /// nothing is added in that case, and the answer ends here.
    private func addPartial(
        _ entry: VHDXEntry, of block: UInt64, length: UInt64, _ runs: inout ExtentList, _ budget: inout UInt64
    ) throws(ImageError) -> Bool {
        guard writer != nil else { return try addSectors(entry, of: block, length: length, &runs, &budget) }
        let before = runs
        let goesOn = try addSectors(entry, of: block, length: length, &runs, &budget)
        guard try lookup.entry(of: block).word == entry.word else {
            runs = before
            return false
        }
        return goesOn
    }

    private func addSectors(
        _ entry: VHDXEntry, of block: UInt64, length: UInt64, _ runs: inout ExtentList, _ budget: inout UInt64
    ) throws(ImageError) -> Bool {
        guard table.hasParent else {
            throw ImageError(
                .corrupt, "a block is partially present in a disk without a parent",
                at: table.place(ofEntry: table.entry(of: block)).rawValue)
        }
        let payload = try lookup.check(entry, of: block)
        let bitmap = try lookup.bitmap(of: block)
        let start = table.start(of: block)
        let end = runs.remaining.lower + min(length, runs.remaining.length)
        while runs.remaining.lower < end {
            let position = runs.remaining.lower
            let (isHere, bits) = try lookup.sectorRun(bitmap, from: position, to: end)
            // The first sector may be asked for from its middle on.
            let step = min(end, (position / table.sectorSize + bits) * table.sectorSize) - position
            if isHere {
                guard try addData(at: payload + (position - start), length: step, .placement, &runs) else {
                    return false
                }
            } else {
                guard runs.append(.hole, length: step) else { return false }
            }
            budget -= min(budget, bits.dividedRoundingUp(by: 8))
            guard budget > 0 else { return false }
        }
        return !runs.isComplete
    }
}
