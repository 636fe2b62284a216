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
        var done = 0
        do throws(ImageError) {
            while done < buffer.count {
                var runs = RunList(for: ByteRange(base + range.lower + UInt64(done), to: base + range.upper))
                try resolve(.placement, into: &runs)
                for index in 0..<runs.count {
                    let run = runs[index]
                    let end = done + Int(run.length)
                    try copy(run, into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<end]))
                    done = end
                }
            }
        } catch { throw report(error, at: range.lower + UInt64(done)) }
    }

    private func copy(_ run: DiskRun, into target: UnsafeMutableRawBufferPointer) throws(ImageError) {
        switch run.source {
        case .host(let file, let offset):
            let count = try open.table[Int(file)].read(at: offset, into: target)
            guard count == target.count else {
                throw .shortFile(at: offset.rawValue + UInt64(count), open.table[Int(file)])
            }
        case .zero, .hole:
            target.initializeMemory(as: UInt8.self, repeating: 0)
        case .encoded(let file, let offset, let length, let skip):
            let unit = StoredUnit(file: file, offset: offset, length: length)
            try decode(unit, from: Int(skip), layer: Int(run.layer), into: target)
        }
    }
}

extension ImageError {
    /// A host file that holds less than it did when it was opened.
    static func shortFile(at offset: UInt64, _ file: any Storage) -> ImageError {
        ImageError(.corrupt, "the file has become shorter while it was open", at: offset, file: file.name)
    }
}
