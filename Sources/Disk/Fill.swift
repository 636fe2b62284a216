internal import Bytes
internal import Formats
internal import Storage

extension Writer {
    /// How many bytes of a fill are copied at once.
    private static let fillBytes: UInt64 = 256 << 10

    /// Brings what the disk reads in the fill's range now to its target. The plan is not published, so what is read is
    /// what every reader sees: this layer first, then those below.
    func fill(_ fill: WritePlan.Fill) throws(ImageError) {
        guard fill.range.length == fill.target.length else {
            throw ImageError(.corrupt, "a fill whose target has another length", at: fill.range.lower)
        }
        let shown = fill.range.clipped(to: top.size)
        var done: UInt64 = 0
        while done < shown.length {
            var runs = RunList(for: shown.dropping(first: done))
            do throws(ImageError) { _ = try top.resolve(.placement, runs.range, into: &runs) } catch {
                guard runs.count > 0 else { throw error }
            }
            for index in 0..<runs.count {
                let target = fill.target.part(from: done, count: runs[index].length)
                try bring(runs[index], to: target, isKnownZero: fill.isKnownZero)
                done += runs[index].length
            }
        }
        // A unit may reach past the end of the disk, where nobody reads but a larger disk would.
        let behind = fill.target.part(from: done, count: fill.target.length - done)
        try fill.isKnownZero ? reach(behind) : zero(behind)
    }

    private func bring(_ run: DiskRun, to target: HostRun, isKnownZero: Bool) throws(ImageError) {
        guard run.isData else { return try isKnownZero ? reach(target) : zero(target) }
        var done: UInt64 = 0
        var failure: ImageError?
        withUnsafeTemporaryAllocation(byteCount: Int(min(Self.fillBytes, run.length)), alignment: 64) { buffer in
            do throws(ImageError) {
                while done < run.length {
                    let count = min(Self.fillBytes, run.length - done)
                    let piece = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(count)])
                    try top.copy(run.part(from: done, count: count), into: piece, decoded)
                    let place = target.part(from: done, count: count)
                    try file(place.file).write(at: place.offset, UnsafeRawBufferPointer(piece))
                    done += count
                }
            } catch { failure = error }
        }
        if let failure { throw failure }
    }

    // MARK: - Zeros

    /// Makes a run of a file read as zeros without a buffer of them, growing the file where it ends before.
    func zero(_ run: HostRun) throws(ImageError) {
        guard run.length > 0 else { return }
        let file = file(run.file)
        let size = file.size
        if run.offset.rawValue < size {
            try file.zero(at: run.offset, count: min(run.length, size - run.offset.rawValue))
        }
        try reach(run)
    }

    /// Makes the file reach to the end of `run`, the part of which past the present end reads as zeros then. Written and not
    /// resized: several threads may do this at once, and none may shorten what another has just made longer.
    func reach(_ run: HostRun) throws(ImageError) {
        guard run.length > 0, let end = run.offset.advanced(by: run.length) else { return }
        let file = file(run.file)
        if end.rawValue > file.size { try file.write(at: HostOffset(end.rawValue - 1), [0]) }
    }
}

extension HostRun {
    /// The part from `skip` on, `count` bytes long.
    func part(from skip: UInt64, count: UInt64) -> HostRun {
        HostRun(file: file, offset: HostOffset(offset.rawValue + skip), length: count)
    }
}

extension DiskRun {
    /// The part from `skip` on, `count` bytes long.
    func part(from skip: UInt64, count: UInt64) -> DiskRun {
        switch source {
        case .host(let file, let offset):
            DiskRun(
                length: count, source: .host(file: file, offset: HostOffset(offset.rawValue + skip)), layer: layer)
        case .encoded(let file, let offset, let length, let first):
            DiskRun(
                length: count,
                source: .encoded(file: file, offset: offset, length: length, skip: first + UInt32(skip)), layer: layer)
        case .zero, .hole: DiskRun(length: count, source: source, layer: layer)
        }
    }
}
