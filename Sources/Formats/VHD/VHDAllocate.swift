internal import Bytes
internal import Storage
internal import Synchronization

/// The space of a sparse image: what is free inside the file, and what lies ready at its end.
struct VHDSpace {
    /// The first step in which a file grows, and the longest, in bytes. A step costs a barrier and, on a file with holes,
    /// no space.
    static let firstStep: UInt64 = 16 << 20
    static let longestStep: UInt64 = 256 << 20

    /// Free places that read as zeros, by their first sectors.
    var zeroed: [UInt32] = []
    /// Free places that hold old bytes.
    var used: [UInt32] = []
    /// Places that were freed and have not come back yet.
    var awaited: Set<UInt32> = []
    /// From here on to `end` the file belongs to nobody.
    var next: UInt64
    /// Where the footer is, in bytes.
    var end: UInt64
    /// From here on to `end` the file reads as zeros: this session made it longer by that.
    var zeroFrom: UInt64
    /// How many blocks of the disk the image does not hold.
    var unallocated: UInt64
    /// How much the file grows next time.
    var step = Self.firstStep
    /// Whether the image has been made ready for its first change.
    var isPrepared = false

    /// A free place that lies in the file already, those of zeros first.
    mutating func takeFree() -> (start: UInt32, isZero: Bool)? {
        if let start = zeroed.popLast() { return (start, true) }
        return used.popLast().map { ($0, false) }
    }

    /// The next place in the part of the file that belongs to nobody; nil when a block does not fit there.
    mutating func takeFromEnd(_ table: VHDTable) -> (start: UInt32, isZero: Bool)? {
        let start = table.alignedStart(next)
        guard start + table.runBytes <= end, let sector = UInt32(exactly: start / 512) else { return nil }
        next = start + table.runBytes
        return (sector, start + table.bitmapBytes >= zeroFrom)
    }
}

extension VHDSparseDriver {
    /// The last sector at which a block can begin: the table has 32 bits for it, and one value means "none".
    private static let lastSector = UInt64(UInt32.max - 1)

    /// Finds a place for a block, growing the file where there is none. `mustBeZero` asks for one that reads as zeros
    /// where that costs no more than giving its host space back. Throws `.noSpace` and `.io`.
    func allocate(
        _ session: VHDSession, mustBeZero: Bool
    ) throws(ImageError) -> (start: UInt32, isZero: Bool) {
        try session.space.withLock { space throws(ImageError) in
            try session.checkHealth()
            let place = try takePlace(session, &space, mustBeZero: mustBeZero)
            space.unallocated -= min(space.unallocated, 1)
            return place
        }
    }

    private func takePlace(
        _ session: VHDSession, _ space: inout VHDSpace, mustBeZero: Bool
    ) throws(ImageError) -> (start: UInt32, isZero: Bool) {
        if let place = space.takeFree() {
            guard mustBeZero, !place.isZero else { return place }
            do throws(ImageError) {
                // Nothing durable points here, and the punch is durable before the table does: the batch's barrier.
                let offset = HostOffset(UInt64(place.start) * 512)
                return (place.start, try session.storage.punch(at: offset, count: table.runBytes))
            } catch {
                space.used.append(place.start)
                throw error
            }
        }
        if let place = space.takeFromEnd(table) { return place }
        try grow(session, &space)
        guard let place = space.takeFromEnd(table) else {
            throw ImageError(.noSpace, "the image has no room for another block")
        }
        return place
    }

    /// Makes the file longer by a step. The footer is durable at the new end before anything is put where the old one is:
    /// after a power loss at any time one of the two is the last of the file, or the file is longer and the copy at
    /// byte 0 counts.
    private func grow(_ session: VHDSession, _ space: inout VHDSpace) throws(ImageError) {
        let old = space.end
        let start = table.alignedStart(max(space.next, old))
        guard start / 512 <= Self.lastSector else {
            throw ImageError(.noSpace, "the file of a VHD cannot be larger than 2 TiB")
        }
        let possible = (Self.lastSector * 512 - start) / table.pitch + 1
        let blocks = min(max(1, min(space.step / table.pitch, space.unallocated)), possible)
        let end = start + blocks * table.pitch
        do throws(ImageError) {
            try session.storage.write(at: HostOffset(end), session.footer)
        } catch {
            try undoGrowth(session, to: old)
            // The host may limit how large a file gets: a single block may still fit.
            guard error.kind == .noSpace, blocks > 1 else { throw error }
            space.step = 0
            return try grow(session, &space)
        }
        do throws(ImageError) { try session.storage.flush() } catch {
            session.poison()
            throw error
        }
        // The old footer lies before the data of every block that is still to be given out there.
        space.zeroFrom = old + UInt64(VHDFooter.byteCount)
        space.next = start
        space.end = end
        space.step = min(max(space.step * 2, table.pitch), VHDSpace.longestStep)
        dataEnd.store(end, ordering: .releasing)
    }

    /// Takes back the part of a growth that was done before it failed, durably: what it wrote must not be found in space
    /// that later counts as zeros.
    private func undoGrowth(_ session: VHDSession, to end: UInt64) throws(ImageError) {
        do throws(ImageError) {
            try session.storage.resize(to: end + UInt64(VHDFooter.byteCount))
            try session.storage.flush()
        } catch {
            session.poison()
            throw error
        }
    }

    /// Takes space back that nothing points to any more.
    func reclaim(_ runs: [HostRun], zeroed: Bool) {
        guard let session else { return }
        session.space.withLock { space in
            for run in runs where run.file == .image {
                for start in freedStarts(run, space) {
                    space.awaited.remove(start)
                    // The last block of a disk may have been cut where the file ended when it was freed.
                    let isWhole = UInt64(start) * 512 + table.runBytes <= run.offset.rawValue + run.length
                    guard isWhole else { continue }
                    if zeroed { space.zeroed.append(start) } else { space.used.append(start) }
                }
            }
        }
    }

    /// The places that a run gives back: one, or several where runs that follow each other were joined.
    private func freedStarts(_ run: HostRun, _ space: VHDSpace) -> [UInt32] {
        if run.length <= table.runBytes {
            guard let start = UInt32(exactly: run.offset.rawValue / 512), space.awaited.contains(start) else {
                return []
            }
            return [start]
        }
        let end = run.offset.rawValue + run.length
        var starts: [UInt32] = []
        var place = run.offset.rawValue
        while place < end, let start = UInt32(exactly: place / 512), space.awaited.contains(start) {
            starts.append(start)
            place += table.runBytes
        }
        if place >= end { return starts }
        // One that was cut has another behind it: looking at all is slow, and rare.
        return space.awaited.filter { UInt64($0) * 512 >= run.offset.rawValue && UInt64($0) * 512 < end }
    }

    /// Says that the place at sector `start` is no longer used by what the table will be, and which run it is.
    func setFree(_ start: UInt32, _ session: VHDSession, _ space: inout VHDSpace) -> HostRun {
        let offset = UInt64(start) * 512
        session.store.drop(at: HostOffset(offset), count: table.bitmapBytes)
        space.awaited.insert(start)
        let end = dataEnd.load(ordering: .relaxed)
        return HostRun(file: .image, offset: HostOffset(offset), length: min(table.runBytes, end - offset))
    }
}
