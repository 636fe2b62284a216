internal import Bytes
internal import Storage

/// The driver of an open VHDX.
final class VHDXDriver: FormatDriver {
    let shape: DiskShape
    let files: [any Storage]
    let parent: ParentReference?

    private let table: VHDXTable
    private let regions: VHDXRegions
    private let view: any Storage
    private let replay: VHDXReplay?
    private let cache: MetadataCache
    private let isFixed: Bool

    /// Slot 1: the replayed file, for bytes that are only in the log.
    private static let replayed = FileSlot(rawValue: 1)
    /// How many entries are looked at together.
    private static let batch: UInt64 = 64
    /// How many bytes of a sector bitmap are looked at together: 4096 sectors.
    private static let bitmapBatch = 512
    /// After so many blocks the host is asked again whether the table is a hole: 32 KiB of entries.
    private static let stepBlocks: UInt64 = 4096
    /// After so many bytes of entries and sector bitmaps a walk ends early.
    private static let walkBytes: UInt64 = 1 << 20

    /// Reads the parent locator and lays out the table. Throws `.malformed`, `.unsupported`, `.corrupt` or `.io`.
    init(_ foundation: VHDXFoundation, cacheBytes: Int) throws(ImageError) {
        replay = foundation.replay
        view = foundation.view
        regions = foundation.regions
        isFixed = foundation.metadata.leavesBlocksAllocated
        table = try VHDXTable(foundation.metadata, foundation.regions.table, in: foundation.view)
        cache = MetadataCache(foundation.view, limitBytes: cacheBytes)
        if foundation.metadata.hasParent, let locator = foundation.metadata.locator {
            parent = try VHDXParent.reference(foundation.view, locator)
        } else {
            parent = nil
        }
        var files: [any Storage] = [foundation.storage]
        if let replay = foundation.replay { files.append(replay) }
        self.files = files
        shape = try foundation.shape()
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
            guard let isEmpty = try walk(block, count: count, detail, &runs, &budget) else { return }
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
                let offset = try check(entry, of: current)
                goesOn = try addData(
                    at: offset + (position - table.start(of: current)), length: length, detail, &runs)
            case .partial: goesOn = try addPartial(entry, of: current, length: length, &runs, &budget)
            case .invalid:
                throw ImageError(
                    .corrupt, "a block's entry has a reserved state or reserved bits set",
                    at: table.place(ofEntry: table.entry(of: current)).rawValue)
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

    /// Where a block lies that its entry says is present. Throws `.corrupt` where that cannot be.
    private func check(_ entry: VHDXEntry, of block: UInt64) throws(ImageError) -> UInt64 {
        let length = table.length(of: block)
        try check(entry.offset, length, at: table.entry(of: block))
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

    /// Adds the runs of a block of which some sectors are here and the others in the parent.
    private func addPartial(
        _ entry: VHDXEntry, of block: UInt64, length: UInt64, _ runs: inout ExtentList, _ budget: inout UInt64
    ) throws(ImageError) -> Bool {
        guard table.hasParent else {
            throw ImageError(
                .corrupt, "a block is partially present in a disk without a parent",
                at: table.place(ofEntry: table.entry(of: block)).rawValue)
        }
        let payload = try check(entry, of: block)
        let bitmap = try bitmap(of: block)
        let start = table.start(of: block)
        let end = runs.remaining.lower + min(length, runs.remaining.length)
        while runs.remaining.lower < end {
            let position = runs.remaining.lower
            let (isHere, bits) = try sectorRun(bitmap, from: position, to: end)
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

    /// Where the sector bitmap is that covers a block. Throws `.corrupt` where there is none.
    private func bitmap(of block: UInt64) throws(ImageError) -> UInt64 {
        let index = table.bitmapEntry(of: block)
        var word: UInt64 = 0
        var failure: ImageError?
        withUnsafeMutableBytes(of: &word) { buffer in
            do throws(ImageError) { try cache.read(at: table.place(ofEntry: index), into: buffer) } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        let entry = VHDXEntry(word: UInt64(littleEndian: word))
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
    private func sectorRun(
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
