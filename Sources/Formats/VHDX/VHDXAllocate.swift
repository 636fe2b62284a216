internal import Bytes
internal import Storage

/// Space for blocks and sector bitmaps. Everything here is called under the writer's lock.
extension VHDXWriter {
    /// The file grows by an eighth of its size, within these numbers of units: few system calls, and not much to trim.
    private static let smallestStep: UInt64 = 8
    private static let largestStep: UInt64 = 1024
    /// So many units of free space are punched together at most.
    private static let punchedRun: UInt64 = 1024

    /// Finds `units` units of 1 MiB in one piece. `isClean` says whether they are known to be zeros. Throws `.noSpace`,
    /// `.corrupt` and `.io`.
    func allocate(_ units: UInt64, _ state: inout State) throws(ImageError) -> (offset: UInt64, isClean: Bool) {
        if state.space == nil { state.space = try VHDXScan.space(storage, table, lookup.regions) }
        guard var space = state.space.take() else { throw .openForReading }
        // Moved out and back, so that the bitmaps are never copied.
        defer { state.space = space }
        while true {
            guard let found = space.find(units) else {
                try grow(by: units, &space)
                continue
            }
            let end = found.upperBound * VHDX.unit
            if storage.size < end { try storage.resize(to: end) }
            if !space.isClean(found) { try punch(around: found, &space) }
            let isClean = space.take(found)
            return (found.lowerBound * VHDX.unit, isClean)
        }
    }

    /// Gives back what was allocated and never published. It may have been written.
    func giveBack(_ offset: UInt64, units: UInt64, _ state: inout State) {
        let first = offset / VHDX.unit
        state.space?.give(first..<(first + units), isClean: false)
    }

    /// Free space belongs to nothing that is durable, so it may be punched at any time; a whole run of it costs one call.
    private func punch(around found: Range<UInt64>, _ space: inout VHDXSpace) throws(ImageError) {
        let run = space.freeRun(from: found.lowerBound, limit: max(Self.punchedRun, UInt64(found.count)))
        let end = min(run.upperBound, storage.size / VHDX.unit)
        guard end >= found.upperBound else { return }
        let start = HostOffset(found.lowerBound * VHDX.unit)
        if try storage.punch(at: start, count: (end - found.lowerBound) * VHDX.unit) {
            space.markClean(found.lowerBound..<end)
        }
    }

    /// Extends the file, so that at least `units` more are free. What is added is zeros.
    private func grow(by units: UInt64, _ space: inout VHDXSpace) throws(ImageError) {
        let limit = VHDXOpen.maximumFileBytes / VHDX.unit
        guard space.end + units <= limit else {
            throw ImageError(.noSpace, "the image file has reached the largest size that platter writes")
        }
        let old = space.end
        let step = min(max(units, Self.smallestStep, min(old / 8, Self.largestStep)), limit - old)
        var end = old + step
        do throws(ImageError) { try storage.resize(to: end * VHDX.unit) } catch {
            guard error.kind == .noSpace, step > units else { throw error }
            end = old + units
            try storage.resize(to: end * VHDX.unit)
        }
        space.extend(to: end, isClean: true)
        // A region may have been named that lies past the end of the file.
        for span in lookup.regions.reserved where span.units.upperBound > old { space.block(span.units) }
    }

    /// The sector bitmap that covers `block`, or the place where it will be. Its 1 MiB is zeros on the host before the
    /// table can name it. Throws `.noSpace`, `.corrupt` and `.io`.
    func bitmapPlace(of block: UInt64, _ state: inout State) throws(ImageError) -> UInt64 {
        let index = table.bitmapEntry(of: block)
        if try lookup.entry(at: index).isBitmapPresent { return try lookup.bitmap(of: block) }
        // Kept for the next write of the chunk where the first one is cancelled.
        if let place = state.bitmaps[index] { return place }
        let place = try allocate(1, &state)
        if !place.isClean {
            do throws(ImageError) { try storage.zero(at: HostOffset(place.offset), count: VHDX.unit) } catch {
                giveBack(place.offset, units: 1, &state)
                throw error
            }
        }
        state.bitmaps[index] = place.offset
        return place.offset
    }
}
