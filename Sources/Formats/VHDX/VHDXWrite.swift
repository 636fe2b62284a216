internal import Bytes
internal import Storage
internal import Synchronization

/// Plans of writes: where the bytes go, and what the table says afterwards ([MS-VHDX] 2.5.1.1; which transition is
/// allowed where is in the table of states there).
extension VHDXWriter {
    /// A plan that is being made.
    private struct Draft {
        /// What is not planned yet.
        var rest: ByteRange
        /// Where the blocks' parts go, in order, one for each block.
        var pieces: [(offset: UInt64, length: UInt64)] = []
        var fills: [WritePlan.Fill] = []
        var changes: [Change] = []
        var isKnownZero = true

        /// Plans the next part, which lies at `offset`.
        mutating func add(_ part: ByteRange, at offset: UInt64, isKnownZero: Bool) {
            pieces.append((offset, part.length))
            rest = rest.dropping(first: part.length)
            if !isKnownZero { self.isKnownZero = false }
        }

        /// Has `range`, if there is any, filled: its first byte lies at `offset`.
        mutating func fill(_ lower: UInt64, to upper: UInt64, at offset: UInt64, isKnownZero: Bool) {
            guard lower < upper else { return }
            let target = HostRun(file: .image, offset: HostOffset(offset), length: upper - lower)
            fills.append(WritePlan.Fill(range: ByteRange(lower, to: upper), target: target, isKnownZero: isKnownZero))
        }
    }

    // MARK: - Reserve

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        try state.withLock { (state) throws(ImageError) -> WritePlan in
            var draft = Draft(rest: range.clipped(to: table.virtualSize))
            while !draft.rest.isEmpty, draft.pieces.count < ExtentList.capacity {
                do throws(ImageError) { try addBlock(&draft, &state) } catch {
                    // The blocks before are a plan of their own.
                    guard !draft.pieces.isEmpty else { throw error }
                    break
                }
            }
            guard !draft.pieces.isEmpty else {
                throw ImageError(.outOfRange, "a write outside the disk", at: range.lower)
            }
            let token = state.nextPlan
            state.nextPlan += 1
            if !draft.changes.isEmpty { state.plans[token] = draft.changes }
            let covered = range.keeping(first: draft.pieces.reduce(0) { $0 + $1.length })
            var runs = ExtentList(for: covered)
            for piece in draft.pieces {
                runs.append(.data(file: .image, offset: HostOffset(piece.offset)), length: piece.length)
            }
            return WritePlan(
                range: covered, runs: runs, fills: draft.fills, token: token, isKnownZero: draft.isKnownZero)
        }
    }

    private func addBlock(_ draft: inout Draft, _ state: inout State) throws(ImageError) {
        let block = table.block(of: draft.rest.lower)
        let start = table.start(of: block)
        let part = draft.rest.clipped(to: start + table.length(of: block))
        let entry = try lookup.entry(of: block)
        switch entry.content {
        case .invalid:
            throw lookup.reservedState(block)
        case .full:
            let offset = try present(entry, block)
            draft.add(part, at: offset + (part.lower - start), isKnownZero: false)
        case .partial:
            try addSectors(part, of: block, entry, &draft)
        case .absent where table.hasParent && part.length < table.length(of: block):
            try addPartial(part, of: block, &draft, &state)
        case .absent, .zeros:
            try addFull(part, of: block, &draft, &state)
        }
    }

    /// Where a block lies that is present, all of it inside the file. Throws `.corrupt`.
    private func present(_ entry: VHDXEntry, _ block: UInt64) throws(ImageError) -> UInt64 {
        let offset = try lookup.check(entry, of: block)
        guard storage.holds(HostOffset(offset), count: table.length(of: block)) else {
            throw ImageError(
                .corrupt, "the file ends before a block that it should hold; it is truncated", at: storage.size)
        }
        return offset
    }

    /// A block that gets a place and is all this disk's: what the write does not cover is filled. That is zeros where the
    /// block read as zeros before; a block of a child that did so must not become PARTIALLY_PRESENT, or the parent would
    /// show through.
    private func addFull(
        _ part: ByteRange, of block: UInt64, _ draft: inout Draft, _ state: inout State
    ) throws(ImageError) {
        let (offset, isClean) = try allocate(blockUnits, &state)
        let start = table.start(of: block)
        let length = table.length(of: block)
        if !isClean, length < table.blockSize {
            // Nobody fills what lies past the end of the disk, and it must not keep what was there before.
            do throws(ImageError) {
                try storage.zero(at: HostOffset(offset + length), count: table.blockSize - length)
            } catch {
                giveBack(offset, units: blockUnits, &state)
                throw error
            }
        }
        draft.fill(start, to: part.lower, at: offset, isKnownZero: isClean)
        draft.fill(part.upper, to: start + length, at: offset + (part.upper - start), isKnownZero: isClean)
        draft.add(part, at: offset + (part.lower - start), isKnownZero: isClean)
        draft.changes.append(Change(kind: .full, block: block, offset: offset))
    }

    /// A block of a child that gets a place for some sectors; the others stay the parent's.
    private func addPartial(
        _ part: ByteRange, of block: UInt64, _ draft: inout Draft, _ state: inout State
    ) throws(ImageError) {
        let bitmap = try bitmapPlace(of: block, &state)
        let (offset, isClean) = try allocate(blockUnits, &state)
        let sectors = wholeSectors(part)
        let start = table.start(of: block)
        draft.fill(sectors.lower, to: part.lower, at: offset + (sectors.lower - start), isKnownZero: isClean)
        draft.fill(part.upper, to: sectors.upper, at: offset + (part.upper - start), isKnownZero: isClean)
        draft.add(part, at: offset + (part.lower - start), isKnownZero: isClean)
        draft.changes.append(
            Change(kind: .partial, block: block, offset: offset, bitmap: bitmap, bits: bits(sectors)))
    }

    /// A block of which some sectors are here: those of the write are here afterwards. A sector that is here already needs
    /// no fill, whatever part of it is written.
    private func addSectors(
        _ part: ByteRange, of block: UInt64, _ entry: VHDXEntry, _ draft: inout Draft
    ) throws(ImageError) {
        let offset = try present(entry, block)
        let bitmap = try lookup.bitmap(of: block)
        let start = table.start(of: block)
        let sectors = wholeSectors(part)
        let first = try lookup.sectorRun(bitmap, from: part.lower, to: part.upper)
        let isAllHere = first.isHere && first.count >= (sectors.length / table.sectorSize)
        if !isAllHere {
            let lastIsHere = try lookup.sectorRun(bitmap, from: part.upper - 1, to: part.upper).isHere
            if !first.isHere {
                draft.fill(sectors.lower, to: part.lower, at: offset + (sectors.lower - start), isKnownZero: false)
            }
            if !lastIsHere {
                draft.fill(part.upper, to: sectors.upper, at: offset + (part.upper - start), isKnownZero: false)
            }
            draft.changes.append(
                Change(kind: .sectors, block: block, offset: offset, bitmap: bitmap, bits: bits(sectors)))
        }
        draft.add(part, at: offset + (part.lower - start), isKnownZero: false)
    }

    /// The range widened to whole sectors. The disk ends with a sector, and blocks consist of whole ones.
    private func wholeSectors(_ part: ByteRange) -> ByteRange {
        let size = table.sectorSize
        return ByteRange(part.lower / size * size, to: part.upper.dividedRoundingUp(by: size) * size)
    }

    private func bits(_ sectors: ByteRange) -> Range<UInt64> {
        let first = table.bitmapBit(of: sectors.lower)
        return first..<(first + sectors.length / table.sectorSize)
    }

    // MARK: - Publish

    func publish(_ token: UInt64, _ freed: inout [HostRun]) throws(ImageError) {
        try state.withLock { (state) throws(ImageError) in
            guard let changes = state.plans.removeValue(forKey: token) else { return }
            for (index, change) in changes.enumerated() {
                do throws(ImageError) { try apply(change, &state, &freed) } catch {
                    // A block's own entry is written last, so this one and those behind it are nowhere yet.
                    for change in changes[index...] { giveBack(change, &state) }
                    throw error
                }
            }
        }
    }

    func cancel(_ token: UInt64) {
        state.withLock { state in
            for change in state.plans.removeValue(forKey: token) ?? [] { giveBack(change, &state) }
        }
    }

    private func giveBack(_ change: Change, _ state: inout State) {
        guard change.kind != .sectors else { return }
        giveBack(change.offset, units: blockUnits, &state)
    }

    /// Makes a change visible. A reader looks at the block's entry first and at the bits afterwards, so the bits are
    /// there before the entry that makes them count.
    private func apply(_ change: Change, _ state: inout State, _ freed: inout [HostRun]) throws(ImageError) {
        let index = table.entry(of: change.block)
        switch change.kind {
        case .sectors:
            try setBits(change)
            if try isComplete(change) { try setEntry(index, to: change.offset | 6) }
        case .partial:
            try rewriteBits(change)
            let bitmapIndex = table.bitmapEntry(of: change.block)
            if try !lookup.entry(at: bitmapIndex).isBitmapPresent {
                try setEntry(bitmapIndex, to: change.bitmap | 6)
                state.bitmaps[bitmapIndex] = nil
                state.newBitmaps.append(bitmapIndex)
            }
            try setEntry(index, to: change.offset | 7)
        case .full:
            let old = try lookup.entry(at: index)
            try setEntry(index, to: change.offset | 6)
            noteOldPlace(old, &freed)
        }
    }
}
