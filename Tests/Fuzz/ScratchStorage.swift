import Bytes
import Storage
import Synchronization

/// A sparse file in memory that can be written, for what repairs and writes images.
final class ScratchStorage: Storage {
    private struct Content {
        var size: UInt64
        var pages: [UInt64: [UInt8]] = [:]
    }

    private static let pageBytes: UInt64 = 4096
    /// As if the host's disk were full then: a fuzzer's writer must not take all memory.
    private static let maximumPages = 1 << 14

    let name = "scratch"
    let identity: FileIdentity? = nil
    let isWritable = true
    private let content: Mutex<Content>

    /// A copy of `base`, holes left out.
    init(_ base: any Storage) throws(ImageError) {
        var content = Content(size: base.size)
        var position: UInt64 = 0
        while let data = try base.nextData(from: HostOffset(position)), content.pages.count < Self.maximumPages {
            let page = data.rawValue / Self.pageBytes
            var bytes = [UInt8](repeating: 0, count: Int(Self.pageBytes))
            let start = page * Self.pageBytes
            let count = Int(min(Self.pageBytes, base.size - start))
            bytes.replaceSubrange(0..<count, with: try base.bytes(at: HostOffset(start), count: count))
            if bytes.contains(where: { $0 != 0 }) { content.pages[page] = bytes }
            position = start + Self.pageBytes
        }
        self.content = Mutex(content)
    }

    var size: UInt64 { content.withLock { $0.size } }

    func refresh() throws(ImageError) -> UInt64 { size }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        content.withLock { content in
            guard offset.rawValue < content.size else { return 0 }
            let total = Int(min(UInt64(buffer.count), content.size - offset.rawValue))
            UnsafeMutableRawBufferPointer(rebasing: buffer[0..<total]).initializeMemory(as: UInt8.self, repeating: 0)
            Self.forEachPiece(offset.rawValue, total) { page, start, done, count in
                guard let bytes = content.pages[page] else { return }
                for index in 0..<count { buffer[done + index] = bytes[start + index] }
            }
            return total
        }
    }

    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard let end = offset.advanced(by: UInt64(bytes.count))?.rawValue, end <= UInt64(Int64.max),
            content.withLock({ $0.pages.count < Self.maximumPages })
        else { throw ImageError(.noSpace, "the scratch file is full") }
        content.withLock { content in
            Self.forEachPiece(offset.rawValue, bytes.count) { page, start, done, count in
                let piece = bytes[done..<(done + count)]
                guard content.pages[page] != nil || piece.contains(where: { $0 != 0 }) else { return }
                content.pages[page, default: [UInt8](repeating: 0, count: Int(Self.pageBytes))]
                    .replaceSubrange(start..<(start + count), with: piece)
            }
            content.size = max(content.size, end)
        }
    }

    func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        guard let end = offset.advanced(by: count)?.rawValue, end <= size else {
            throw ImageError(.outOfRange, "zeros past the end of the file", at: offset.rawValue)
        }
        content.withLock { Self.clear(&$0, offset.rawValue, to: end) }
    }

    func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        try zero(at: offset, count: count)
        return true
    }

    func resize(to size: UInt64) throws(ImageError) {
        guard size <= UInt64(Int64.max) else { throw ImageError(.noSpace, "a file cannot be that large") }
        content.withLock { content in
            if size < content.size { Self.clear(&content, size, to: content.size) }
            content.size = size
        }
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        content.withLock { content in
            let first = content.pages.keys.filter { ($0 + 1) * Self.pageBytes > offset.rawValue }.min()
            guard let first, first * Self.pageBytes < content.size else { return nil }
            return offset.rawValue < content.size ? HostOffset(max(offset.rawValue, first * Self.pageBytes)) : nil
        }
    }

    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        content.withLock { content in
            var position = offset.rawValue
            while position < content.size, content.pages[position / Self.pageBytes] != nil {
                position = (position / Self.pageBytes + 1) * Self.pageBytes
            }
            return HostOffset(min(position, content.size))
        }
    }

    func allocatedBytes() throws(ImageError) -> UInt64 { content.withLock { UInt64($0.pages.count) * Self.pageBytes } }

    func flush() throws(ImageError) {}

    func close() {}

    private static func clear(_ content: inout Content, _ start: UInt64, to end: UInt64) {
        for page in content.pages.keys where page * pageBytes < end && (page + 1) * pageBytes > start {
            let from = Int(max(start, page * pageBytes) - page * pageBytes)
            let to = Int(min(end, (page + 1) * pageBytes) - page * pageBytes)
            if to - from == Int(pageBytes) {
                content.pages[page] = nil
            } else {
                content.pages[page]?.replaceSubrange(from..<to, with: repeatElement(0, count: to - from))
            }
        }
    }

    private static func forEachPiece(_ offset: UInt64, _ total: Int, _ body: (UInt64, Int, Int, Int) -> Void) {
        var done = 0
        while done < total {
            let position = offset + UInt64(done)
            let start = Int(position % pageBytes)
            let count = min(Int(pageBytes) - start, total - done)
            body(position / pageBytes, start, done, count)
            done += count
        }
    }
}
