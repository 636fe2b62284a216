package import Bytes
internal import Formats
package import Storage

extension Disk {
    /// Fills all of `buffer` with the bytes of `range`, or throws; the two are equally long, and the range lies within
    /// the disk (`.outOfRange` otherwise). Throws `.io` and `.corrupt`, after a line in the log; the buffer's content is
    /// then undefined.
    package func read(_ range: ByteRange, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) {
        guard range.upper <= size, range.length == UInt64(buffer.count) else {
            throw ImageError(.outOfRange, "a read outside the disk", at: range.lower, file: name)
        }
        // A disk that nobody writes pays nothing for this.
        let lease = leases?.begin()
        defer { if let lease { leases?.end(lease) } }
        var done = 0
        do throws(ImageError) {
            while done < buffer.count {
                var runs = RunList(for: ByteRange(base + range.lower + UInt64(done), to: base + range.upper))
                try resolve(.placement, into: &runs)
                for index in 0..<runs.count {
                    let run = runs[index]
                    let end = done + Int(run.length)
                    try top.copy(run, into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<end]), decoded)
                    done = end
                }
            }
        } catch { throw report(error, at: range.lower + UInt64(done)) }
    }

    /// Fills `runs` with the places of its range, which is one of the disk that the layers show (not of the window) and
    /// lies within it. Stops early when the list is full. Throws only when not even the first byte has an answer: damage
    /// further on ends the list, and is thrown when it is asked for.
    func resolve(_ detail: MapDetail, into runs: inout RunList) throws(ImageError) {
        do throws(ImageError) {
            _ = try top.resolve(detail, runs.range, into: &runs)
        } catch {
            guard runs.count == 0 else { return }
            // What lies past the end may have been added by the program that is writing the image.
            guard error.kind == .corrupt, try open.haveGrown() else { throw error }
            _ = try top.resolve(detail, runs.range, into: &runs)
        }
    }
}
