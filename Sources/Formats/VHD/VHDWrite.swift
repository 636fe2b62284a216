internal import Bytes
internal import Storage
internal import Synchronization

/// Writing into a sparse image.
///
/// A block that the image does not hold is found a place, filled, and then published with all that its bitmap will say:
/// the bitmap goes out with the guest's bytes, the table's entry after the barrier. In a dynamic image that is the whole
/// block, zeros around the write, and every bit; in a child the sectors of the write. Sectors that a held block lacks
/// are written where they belong, and their bits go out after the barrier.
extension VHDSparseDriver {
    /// In a plan's token: every sector of the new block is there. The lower 32 bits are the block's first sector, or 0
    /// for a block that the image holds.
    private static let wholeBlock: UInt64 = 1 << 32

    func inPlace(_ runs: inout ExtentList) throws(ImageError) {
        try session?.checkHealth()
        var found = ExtentList(for: runs.remaining)
        try walk(byBitmaps: true, into: &found)
        for index in 0..<found.count {
            guard case .data = found[index].place, runs.append(found[index].place, length: found[index].length) else {
                return
            }
        }
    }

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        guard let session else { throw .openForReading }
        try session.checkHealth()
        let block = range.lower >> table.blockShift
        let part = range.clipped(to: (block + 1) << table.blockShift)
        let entry = try entry(of: block)
        guard entry == VHDTable.unused else {
            let bitmap = UInt64(entry) * 512
            try check(block, at: bitmap)
            return try planInside(part, bitmap: bitmap)
        }
        return try planForNew(block, part, session)
    }

    /// The entry of `block` as it is now.
    func entry(of block: UInt64) throws(ImageError) -> UInt32 {
        var entry: UInt32 = 0
        try withUnsafeMutableBytes(of: &entry) { bytes throws(ImageError) in
            try cache.read(at: table.entryOffset(block), into: bytes)
        }
        return UInt32(bigEndian: entry)
    }

    // MARK: - Plans

    /// A plan for a range of a block that the image holds. Its bits lie in one page of the file, so that readers see
    /// them change at once.
    private func planInside(_ range: ByteRange, bitmap: UInt64) throws(ImageError) -> WritePlan {
        let within = range.lower & (table.blockSize - 1)
        let byte = bitmap + within / (512 * 8)
        let pageBytes = UInt64(MetadataCache.pageBytes)
        let bitsInPage = ((byte / pageBytes + 1) * pageBytes - bitmap) * 8
        let part = range.keeping(first: bitsInPage * 512 - within)
        var fills: [WritePlan.Fill] = []
        for edge in edges(of: part) where try !isSet(edge.lower, bitmap: bitmap) {
            fills.append(fill(edge, bitmap: bitmap, isKnownZero: false))
        }
        return WritePlan(range: part, runs: runs(for: part, bitmap: bitmap), fills: fills, token: 0)
    }

    /// A plan that puts `block` into the image.
    private func planForNew(
        _ block: UInt64, _ range: ByteRange, _ session: VHDSession
    ) throws(ImageError) -> WritePlan {
        let isChild = parent != nil
        let isMarked = isChild ? try isMarked(block, session) : false
        let place = try allocate(session, mustBeZero: !isChild)
        let bitmap = UInt64(place.start) * 512
        let start = block << table.blockShift
        let end = min(start + table.blockSize, table.virtualSize)
        let around =
            isChild && !isMarked
            ? edges(of: range) : [ByteRange(start, to: range.lower), ByteRange(range.upper, to: end)]
        return WritePlan(
            range: range, runs: runs(for: range, bitmap: bitmap),
            fills: around.filter { !$0.isEmpty }.map { fill($0, bitmap: bitmap, isKnownZero: place.isZero) },
            token: UInt64(place.start) | (isChild && !isMarked ? 0 : Self.wholeBlock), isKnownZero: place.isZero)
    }

    /// Whether XenServer's map says that every sector of `block` is there. A child that allocates such a block takes all of
    /// it, so that the mark is true again.
    private func isMarked(_ block: UInt64, _ session: VHDSession) throws(ImageError) -> Bool {
        guard let offset = session.batmap?.markOffset(block) else { return false }
        var byte: UInt8 = 0
        try withUnsafeMutableBytes(of: &byte) { bytes throws(ImageError) in try cache.read(at: offset, into: bytes) }
        return byte & mask(block) != 0
    }

    /// The parts of a range's first and last sector that it leaves out.
    private func edges(of range: ByteRange) -> [ByteRange] {
        let before = ByteRange(range.lower & ~511, to: range.lower)
        let behind = ByteRange(range.upper, to: min((range.upper + 511) & ~511, table.virtualSize))
        return [before, behind].filter { !$0.isEmpty }
    }

    private func runs(for range: ByteRange, bitmap: UInt64) -> ExtentList {
        var runs = ExtentList(for: range)
        runs.append(.data(file: .image, offset: place(of: range.lower, bitmap: bitmap)), length: range.length)
        return runs
    }

    private func fill(_ range: ByteRange, bitmap: UInt64, isKnownZero: Bool) -> WritePlan.Fill {
        let target = HostRun(file: .image, offset: place(of: range.lower, bitmap: bitmap), length: range.length)
        return WritePlan.Fill(range: range, target: target, isKnownZero: isKnownZero)
    }

    /// Where the byte `position` of the disk is, in the block whose bitmap begins at byte `bitmap`.
    private func place(of position: UInt64, bitmap: UInt64) -> HostOffset {
        HostOffset(bitmap + table.bitmapBytes + position & (table.blockSize - 1))
    }

    // MARK: - Bits

    /// The bit with the number `bit` in its byte.
    private func mask(_ bit: UInt64) -> UInt8 { order == .lowestFirst ? 1 << UInt8(bit & 7) : 0x80 >> UInt8(bit & 7) }

    /// Whether the sector of byte `position` of the disk is in the block whose bitmap begins at byte `bitmap`.
    private func isSet(_ position: UInt64, bitmap: UInt64) throws(ImageError) -> Bool {
        let sector = (position & (table.blockSize - 1)) / 512
        var byte: UInt8 = 0
        try withUnsafeMutableBytes(of: &byte) { bytes throws(ImageError) in
            try cache.read(at: HostOffset(bitmap + sector / 8), into: bytes)
        }
        return byte & mask(sector) != 0
    }

    /// Sets the bits of the sectors from `first` up to `end`, counted from the first bit of `bytes`.
    private func set(_ bytes: inout [UInt8], from first: UInt64, to end: UInt64) {
        var bit = first
        while bit < end {
            if bit & 7 == 0, end - bit >= 8 {
                bytes[Int(bit / 8)] = 0xFF
                bit += 8
            } else {
                bytes[Int(bit / 8)] |= mask(bit)
                bit += 1
            }
        }
    }

    // MARK: - Publishing

    func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError) {
        guard let session else { throw .openForReading }
        let range = plan.range
        let block = range.lower >> table.blockShift
        let first = (range.lower & (table.blockSize - 1)) / 512
        let end = ((range.upper - 1) & (table.blockSize - 1)) / 512 + 1
        let token = plan.token
        guard let start = UInt32(exactly: token & ~Self.wholeBlock), start != 0 else {
            return try session.space.withLock { _ throws(ImageError) in
                try setBits(from: first, to: end, bitmap: UInt64(try entry(of: block)) * 512, session)
            }
        }
        let failure = session.space.withLock { space -> ImageError? in
            do throws(ImageError) {
                let isWhole = token & Self.wholeBlock != 0
                let last = isWhole ? table.blockSize / 512 : end
                try show(block, at: start, from: isWhole ? 0 : first, to: last, session)
                return nil
            } catch {
                freed.append(giveBack(start, session, &space))
                return error
            }
        }
        if let failure { throw failure }
    }

    /// Sets bits of a block that the image holds. Their bytes are durable first: the sectors go out after the barrier.
    private func setBits(
        from first: UInt64, to end: UInt64, bitmap: UInt64, _ session: VHDSession
    ) throws(ImageError) {
        let firstByte = first / 8
        var bytes = [UInt8](repeating: 0, count: Int((end + 7) / 8 - firstByte))
        let failure = bytes.withUnsafeMutableBytes { buffer -> ImageError? in
            do throws(ImageError) {
                try cache.read(at: HostOffset(bitmap + firstByte), into: buffer)
                return nil
            } catch { return error }
        }
        if let failure { throw failure }
        set(&bytes, from: first - firstByte * 8, to: end - firstByte * 8)
        try session.store.write(at: HostOffset(bitmap + firstByte), bytes, phase: .later)
    }

    /// Puts a block into the table. Its bitmap is complete before: a reader that finds the entry finds the bits, and on the
    /// disk the bitmap comes first.
    private func show(
        _ block: UInt64, at start: UInt32, from first: UInt64, to end: UInt64, _ session: VHDSession
    ) throws(ImageError) {
        var bitmap = [UInt8](repeating: 0, count: Int(table.bitmapBytes))
        set(&bitmap, from: first, to: end)
        try session.store.write(at: HostOffset(UInt64(start) * 512), bitmap, phase: .first)
        let entry = withUnsafeBytes(of: start.bigEndian) { Array($0) }
        try session.store.write(at: table.entryOffset(block), entry, phase: .later)
    }

    func cancel(_ plan: consuming WritePlan, freed: inout [HostRun]) {
        guard let session, let start = UInt32(exactly: plan.token & ~Self.wholeBlock), start != 0 else { return }
        freed.append(session.space.withLock { giveBack(start, session, &$0) })
    }

    /// The run of a new block that is not used after all.
    private func giveBack(_ start: UInt32, _ session: VHDSession, _ space: inout VHDSpace) -> HostRun {
        space.unallocated += 1
        return setFree(start, session, &space)
    }
}
