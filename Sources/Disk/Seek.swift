package import Bytes
internal import Formats
package import Storage

/// One run of the disk for `platter map`.
package struct MappedRun: Sendable, Hashable {
    /// Where the bytes of a run are.
    package enum Place: Sendable, Hashable {
        /// Verbatim in a host file from `offset` on.
        case data(file: String, offset: UInt64)
        /// In a stored (compressed) unit of `length` bytes at `offset`.
        case encoded(file: String, offset: UInt64, length: UInt32)
        /// A layer says zeros.
        case zero
        /// No layer has anything here.
        case hole
        /// The layers that could be opened have nothing here, and the one below them is missing.
        case missing
    }

    /// The bytes of the disk.
    package var range: ByteRange
    /// Where they are.
    package var place: Place
    /// The index in `layers` of the image that answered; for `.hole` the lowest one that was asked.
    package var layer: Int
}

extension Disk {
    /// The first byte at or after `position` that may hold data (SEEK_DATA), or nil when only holes and zeros follow.
    /// Throws `.io` and `.corrupt`, after a line in the log.
    package func nextData(from position: UInt64) throws(ImageError) -> UInt64? {
        try first(from: position, orElse: { $0 }) { $0.isData }
    }

    /// The first byte at or after `position` that lies in a hole or in zeros, or the size (SEEK_HOLE). Throws like
    /// `nextData(from:)`.
    package func nextHole(from position: UInt64) throws(ImageError) -> UInt64 {
        try first(from: position, orElse: { _ in nil }) { !$0.isData } ?? size
    }

    /// The runs of the disk from `position` on, joined where they continue each other; at most 16 of them, and none at
    /// the end of the disk. Ask again from the end of the last one. Throws `.io` and `.corrupt`.
    package func map(from position: UInt64) throws(ImageError) -> [MappedRun] {
        guard position < size else { return [] }
        let lease = beginTransfer()
        defer { endTransfer(lease) }
        var runs = RunList(for: ByteRange(base + position, to: base + size))
        try resolve(.allocation, into: &runs)
        var start = position
        return (0..<runs.count).map { index in
            let run = runs[index]
            defer { start += run.length }
            let place: MappedRun.Place =
                switch run.source {
                case .host(let file, let offset): .data(file: fileName(run, file), offset: offset.rawValue)
                case .encoded(let file, let offset, let length, _):
                    .encoded(file: fileName(run, file), offset: offset.rawValue, length: length)
                case .zero: .zero
                case .hole: layers[Int(run.layer)].missingParent == nil ? .hole : .missing
                }
            return MappedRun(range: ByteRange(start, to: start + run.length), place: place, layer: Int(run.layer))
        }
    }

    /// The bytes that the host has allocated for the files of the layers, for st_blocks: at most the size rounded up to
    /// 512, and never 0 for a disk that is not empty, which archivers would take for all zeros. Throws `.io`.
    package func allocatedBytes() throws(ImageError) -> UInt64 {
        guard size > 0 else { return 0 }
        var sum: UInt64 = 0
        for layer in layers { sum = sum.checkedAdding(try layer.allocatedBytes()) ?? .max }
        let limit = size.roundedUp(toPowerOfTwo: 512) ?? size
        return max(512, min(sum.roundedUp(toPowerOfTwo: 512) ?? .max, limit))
    }

    private func fileName(_ run: DiskRun, _ file: FileSlot) -> String {
        layers[Int(run.layer)].driver.files[Int(file.rawValue)].name
    }

    /// How long a search goes on. No honest image needs more than a fraction of it; a small hostile one can describe so
    /// many units that looking at all of them would take days.
    private static let searchTime = Duration.seconds(2)

    /// The first run that is wanted; nil at the end of the disk. Where that takes too long, `guess` answers with how far
    /// the search came: calling zeros data is always allowed.
    private func first(
        from position: UInt64, orElse guess: (UInt64) -> UInt64?, where wanted: (DiskRun) -> Bool
    ) throws(ImageError) -> UInt64? {
        var start = position
        var deadline: ContinuousClock.Instant?
        while start < size {
            // The first answer is nearly always the last, and costs no look at the clock.
            if start > position {
                let now = ContinuousClock.now
                if now >= deadline ?? now + Self.searchTime { return guess(start) }
                if deadline == nil { deadline = now + Self.searchTime }
            }
            let lease = beginTransfer()
            defer { endTransfer(lease) }
            var runs = RunList(for: ByteRange(base + start, to: base + size))
            do throws(ImageError) {
                try resolve(.allocation, into: &runs)
            } catch { throw report(error, at: start) }
            for index in 0..<runs.count {
                if wanted(runs[index]) { return start }
                start += runs[index].length
            }
        }
        return nil
    }
}

extension DiskRun {
    /// Whether the run may hold other bytes than zeros.
    var isData: Bool {
        switch source {
        case .host, .encoded: true
        case .zero, .hole: false
        }
    }
}
