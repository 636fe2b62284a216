internal import Bytes
internal import Storage

/// The file as it will be when its log has been replayed, without changing it.
///
/// A replayed page is not copied: it is remembered where in the log its bytes are, and zeroed ranges stay ranges. So the
/// largest log costs a few MiB.
final class VHDXReplay: Storage {
    /// Where the bytes at some place of the replayed file come from.
    enum Source {
        /// The image file, at the same place.
        case file
        /// The log.
        case log
        /// Nowhere: they are zeros.
        case zeros
    }

    let name: String
    let identity: FileIdentity?

    /// The size after replay: what the log says that every structure needs, if that is more than the file has.
    let size: UInt64

    /// How many log entries were replayed.
    let entryCount: Int

    private let base: any Storage
    private let baseSize: UInt64
    private let logOffset: UInt64
    private let pages: [VHDXChanges.Page]
    private let zeros: [VHDXChanges.Zeros]

    /// The size of the file before the replay.
    var fileSize: UInt64 { baseSize }

    /// The ranges that become zeros but for the pages within them, ascending.
    var zeroedRanges: [VHDXChanges.Zeros] { zeros }

    /// Where the pages of 4 KiB lie whose bytes are in the log, ascending.
    var pageOffsets: [UInt64] { pages.map(\.offset) }

    /// How many pages and zeroed ranges differ from the file.
    var changeCount: Int { pages.count + zeros.count }

    /// Validates the log that `header` names and takes note of what it changes.
    ///
    /// Throws `.corrupt` when no sequence of entries is valid, when the file is shorter than the log says it was, or when
    /// an entry would change the headers or the log itself; `.unsupported` for more changes than fit memory; `.io`.
    init(_ base: any Storage, _ header: VHDXHeader) throws(ImageError) {
        var log = try VHDXLog(base, header)
        guard let entries = try log.activeSequence(), let head = entries.last else {
            throw ImageError(
                .corrupt, "the log is in use but holds no valid sequence of entries; what it held is lost",
                at: header.logOffset)
        }
        baseSize = base.size
        guard baseSize >= head.flushedFileOffset else {
            throw ImageError(
                .corrupt, "the file is shorter than its log says; it was truncated",
                detail: "\(baseSize) of \(head.flushedFileOffset.counted("byte"))")
        }
        var changes = VHDXChanges(header)
        for entry in entries { try changes.add(entry, from: &log) }
        let result = changes.finish()
        pages = result.pages
        zeros = result.zeros
        size = max(baseSize, head.lastFileOffset, changes.end)
        guard size <= UInt64(Int64.max) else {
            throw ImageError(.corrupt, "the log says that the file is longer than any file can be")
        }
        self.base = base
        logOffset = header.logOffset
        name = base.name
        identity = base.identity
        entryCount = entries.count
    }

    /// Where the bytes from `offset` on come from, and for how many bytes that holds, at most `limit` (at least 1).
    func source(at offset: UInt64, limit: UInt64) -> (source: Source, length: UInt64) {
        let page = firstPage(endingAfter: offset)
        var length = limit
        if page < pages.count {
            if pages[page].offset <= offset { return (.log, min(limit, pages[page].end - offset)) }
            length = min(length, pages[page].offset - offset)
        }
        let zero = firstZeros(endingAfter: offset)
        if zero < zeros.count {
            if zeros[zero].start <= offset { return (.zeros, min(length, zeros[zero].end - offset)) }
            length = min(length, zeros[zero].start - offset)
        }
        return offset < baseSize ? (.file, min(length, baseSize - offset)) : (.zeros, length)
    }

    // MARK: - Storage

    @discardableResult
    func refresh() throws(ImageError) -> UInt64 { size }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        guard offset.rawValue < size else { return 0 }
        let wanted = Int(min(UInt64(buffer.count), size - offset.rawValue))
        var done = 0
        while done < wanted {
            let position = offset.rawValue + UInt64(done)
            let (source, length) = source(at: position, limit: UInt64(wanted - done))
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + Int(length))])
            switch source {
            case .zeros: part.initializeMemory(as: UInt8.self, repeating: 0)
            case .log: try readPage(at: position, into: part)
            case .file:
                let count = try base.read(at: HostOffset(position), into: part)
                guard count == part.count else { return done + count }
            }
            done += Int(length)
        }
        return done
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        guard offset.rawValue < size else { return nil }
        let page = firstPage(endingAfter: offset.rawValue)
        let replayed = page < pages.count ? HostOffset(max(pages[page].offset, offset.rawValue)) : nil
        guard offset.rawValue < baseSize, let data = try base.nextData(from: offset) else { return replayed }
        guard let replayed else { return data }
        return min(data, replayed)
    }

    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        var position = offset.rawValue
        while position < size {
            if position < baseSize { position = max(position, try base.nextHole(from: HostOffset(position)).rawValue) }
            var page = firstPage(endingAfter: position)
            guard page < pages.count, pages[page].offset <= position else { break }
            while page < pages.count, pages[page].offset <= position {
                position = pages[page].end
                page += 1
            }
        }
        return HostOffset(min(position, size))
    }

    /// None of its own: the image file, which is listed beside this one, has them all.
    func allocatedBytes() throws(ImageError) -> UInt64 { 0 }

    func flush() throws(ImageError) { try base.flush() }

    /// Does nothing: the image file has an owner of its own.
    func close() {}

    // MARK: - Pages

    /// Fills `part`, which lies within one replayed page, from the log.
    private func readPage(at position: UInt64, into part: UnsafeMutableRawBufferPointer) throws(ImageError) {
        let page = pages[firstPage(endingAfter: position)]
        var failure: ImageError?
        withUnsafeTemporaryAllocation(byteCount: Int(VHDXLog.sectorBytes), alignment: 8) { sector in
            do throws(ImageError) {
                try base.readAll(at: HostOffset(logOffset + UInt64(page.dataPosition)), into: sector)
            } catch {
                failure = error
                return
            }
            sector.storeBytes(of: page.leading.littleEndian, toByteOffset: 0, as: UInt64.self)
            sector.storeBytes(of: page.trailing.littleEndian, toByteOffset: 4092, as: UInt32.self)
            let start = Int(position - page.offset)
            part.copyMemory(from: UnsafeRawBufferPointer(rebasing: sector[start..<(start + part.count)]))
        }
        if let failure { throw failure }
    }

    private func firstPage(endingAfter offset: UInt64) -> Int {
        var low = 0
        var high = pages.count
        while low < high {
            let middle = (low + high) / 2
            if pages[middle].end <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func firstZeros(endingAfter offset: UInt64) -> Int {
        var low = 0
        var high = zeros.count
        while low < high {
            let middle = (low + high) / 2
            if zeros[middle].end <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
