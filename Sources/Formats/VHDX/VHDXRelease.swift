internal import Bytes
internal import Storage
internal import Synchronization

/// Discarding, zeroing and uncovering blocks, and the space that comes back.
extension VHDXWriter {
    /// One call changes entries in so many pages of the table at most, and looks at so many blocks: a batch has to fit the
    /// log in few entries, and other writers wait meanwhile.
    private static let pageLimit = 32
    private static let blockLimit = 1 << 16

    func release(
        _ range: ByteRange, as release: Release, _ freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        let limit = range.clipped(to: table.virtualSize)
        var handled = ByteRange(limit.lower, to: limit.lower)
        var dropped: [HostRun] = []
        // Also where a later block is found damaged: those before it have lost their places.
        defer { freed += dropped }
        let result = try state.withLock { (state) throws(ImageError) -> ByteRange in
            if state.space == nil { state.space = try VHDXScan.space(storage, table, lookup.regions) }
            var position = limit.lower
            var pages = (last: UInt64.max, count: 0)
            for _ in 0..<Self.blockLimit where position < limit.upper && pages.count < Self.pageLimit {
                let block = table.block(of: position)
                let end = table.start(of: block) + table.length(of: block)
                let part = ByteRange(position, to: min(end, limit.upper))
                let isWhole = position == table.start(of: block) && part.upper == end
                guard try drop(block, isWhole: isWhole, release, &pages, &dropped) else {
                    // A first block that is touched in part only is left to the caller; the others may still go.
                    guard handled.isEmpty, !isWhole, position == limit.lower else { break }
                    handled = ByteRange(part.upper, to: part.upper)
                    position = part.upper
                    continue
                }
                handled = ByteRange(handled.lower, to: part.upper)
                position = part.upper
            }
            return handled
        }
        return result.isEmpty ? ByteRange(range.lower, to: range.lower) : result
    }

    /// Makes a block read as asked for, by its entry alone; false where that cannot be.
    private func drop(
        _ block: UInt64, isWhole: Bool, _ release: Release, _ pages: inout (last: UInt64, count: Int),
        _ freed: inout [HostRun]
    ) throws(ImageError) -> Bool {
        let index = table.entry(of: block)
        let old = try lookup.entry(at: index)
        // ZERO never has an offset; a disk without a parent may as well keep NOT_PRESENT.
        var word: UInt64 = 2
        switch old.content {
        case .invalid:
            throw lookup.reservedState(block)
        case .absent:
            guard table.hasParent, release == .readsZero else { return true }
            guard isWhole else { return false }
        case .zeros:
            if table.hasParent, release == .showsParent {
                guard isWhole else { return false }
                word = 0
            } else if !isWhole || isFixed || old.word & 7 == 2 || old.offset == 0 {
                return true
            }
        case .full, .partial:
            // A fixed file keeps the space of every block.
            guard isWhole, !isFixed else { return false }
            if table.hasParent, release == .showsParent { word = 0 }
        }
        try setEntry(index, to: word)
        let page = index * VHDXTable.entryBytes / VHDXLog.sectorBytes
        if page != pages.last { pages = (page, pages.count + 1) }
        noteOldPlace(old, &freed)
        return true
    }

    /// Notes the place that a block had, if it had one: nothing points to it any more. One that reaches past the end of
    /// the file (an old writer cut the last block short) stays nobody's until the next session.
    func noteOldPlace(_ old: VHDXEntry, _ freed: inout [HostRun]) {
        let isOwned =
            switch old.content {
            case .full, .partial: true
            // UNDEFINED and UNMAPPED may keep their place; with ZERO an offset means nothing.
            case .zeros: old.word & 7 != 2 && old.offset > 0
            case .absent, .invalid: false
            }
        guard isOwned, storage.holds(HostOffset(old.offset), count: table.blockSize) else { return }
        freed.append(HostRun(file: .image, offset: HostOffset(old.offset), length: table.blockSize))
    }

    func reclaim(_ runs: [HostRun], zeroed: Bool) {
        state.withLock { state in
            for run in runs {
                let first = run.offset.rawValue.dividedRoundingUp(by: VHDX.unit)
                let end = (run.offset.rawValue + run.length) / VHDX.unit
                guard first < end else { continue }
                state.space?.give(first..<end, isClean: zeroed)
            }
        }
    }
}
