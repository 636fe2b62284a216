package import Bytes
internal import Formats
package import Storage

/// What became of a request to move bytes into a pipe.
package enum Feed: Sendable, Hashable {
    /// Exactly the bytes of the range are in the pipe.
    case done
    /// Nothing was moved: the range is better copied.
    case unsuitable
    /// Bytes were moved before a part turned out not to splice: throw the pipe away and copy the range.
    case spoiled
}

extension Disk {
    /// Below this many bytes a copy is cheaper than the calls that splice.
    private static let smallestFeed: UInt64 = 8192
    private static let pageBytes: UInt64 = 4096

    /// Moves the bytes of `range` into an empty pipe of `capacityPages` free pages, without copying them. On a disk that is
    /// written the pipe's pages are only good while the caller holds what `beginTransfer` gave it before.
    ///
    /// `.unsuitable` is decided before anything is moved: a small range, compressed runs, more runs or pages than fit,
    /// or a file that cannot be spliced. After that only the full count is `.done`; where a later file cannot be spliced,
    /// or the pipe is full before its time, the answer is `.spoiled`. Where the host file ends early or fails this throws
    /// `.corrupt` or `.io`, after a line in the log, and the pipe holds bytes to be thrown away.
    package func feed(_ range: ByteRange, into pipe: PipeWriter, capacityPages: Int) throws(ImageError) -> Feed {
        guard range.upper <= size else {
            throw ImageError(.outOfRange, "a read outside the disk", at: range.lower, file: name)
        }
        guard range.length >= Self.smallestFeed else { return .unsuitable }
        let lease = leases?.begin()
        defer { if let lease { leases?.end(lease) } }
        var done: UInt64 = 0
        do throws(ImageError) {
            var runs = RunList(for: ByteRange(base + range.lower, to: base + range.upper))
            try resolve(.placement, into: &runs)
            guard runs.isComplete, fits(runs, pages: capacityPages) else { return .unsuitable }
            for index in 0..<runs.count {
                guard try move(runs[index], into: pipe, done: &done) else {
                    return done == 0 ? .unsuitable : .spoiled
                }
            }
        } catch { throw report(error, at: range.lower + done) }
        return .done
    }

    /// Whether every run can be spliced, and all of them together take no more than `pages` pages of a pipe.
    private func fits(_ runs: borrowing RunList, pages: Int) -> Bool {
        var needed: UInt64 = 0
        for index in 0..<runs.count {
            let run = runs[index]
            var start: UInt64 = 0
            switch run.source {
            case .encoded: return false
            case .zero, .hole:
                guard ZeroSource.shared != nil else { return false }
            case .host(_, let offset): start = offset.rawValue % Self.pageBytes
            }
            needed += (start + run.length).dividedRoundingUp(by: Self.pageBytes)
        }
        return needed <= UInt64(max(0, pages))
    }

    /// Moves one run, counting its bytes in `done`. False when the storage cannot splice.
    private func move(_ run: DiskRun, into pipe: PipeWriter, done: inout UInt64) throws(ImageError) -> Bool {
        var moved: UInt64 = 0
        while moved < run.length {
            let count = Int(run.length - moved)
            let step: Int?
            switch run.source {
            case .host: step = try top.splice(run, from: moved, count: count, into: pipe)
            case .zero, .hole: step = try ZeroSource.shared?.splice(count: count, into: pipe)
            case .encoded: step = nil
            }
            guard let step, step > 0 else { return false }
            moved += UInt64(step)
            done += UInt64(step)
        }
        return true
    }
}
