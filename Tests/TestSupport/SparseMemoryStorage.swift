package import Bytes
package import Storage
internal import Synchronization

/// A file in memory of any size up to 2^63 bytes, of which only written pages of 64 KiB exist: for images of petabytes.
package final class SparseMemoryStorage: Storage {
    private static let pageBytes: UInt64 = 64 << 10

    private struct Content {
        var size: UInt64
        var pages: [UInt64: [UInt8]] = [:]
    }

    package let name: String
    package let identity: FileIdentity?
    private let content: Mutex<Content>

    /// An empty file of `size` bytes, all of them a hole.
    package init(size: UInt64, name: String = "sparse") {
        self.name = name
        identity = nil
        content = Mutex(Content(size: size))
    }

    package var size: UInt64 { content.withLock { $0.size } }

    package func refresh() throws(ImageError) -> UInt64 { size }

    /// Writes bytes, growing the file where they reach past its end.
    package func patch(_ bytes: [UInt8], at offset: UInt64) {
        content.withLock { content in
            var done = 0
            while done < bytes.count {
                let position = offset + UInt64(done)
                let start = Int(position % Self.pageBytes)
                let count = min(Int(Self.pageBytes) - start, bytes.count - done)
                content.pages[position / Self.pageBytes, default: [UInt8](repeating: 0, count: Int(Self.pageBytes))]
                    .replaceSubrange(start..<(start + count), with: bytes[done..<(done + count)])
                done += count
            }
            content.size = max(content.size, offset + UInt64(bytes.count))
        }
    }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        content.withLock { content in
            guard offset.rawValue < content.size else { return 0 }
            let total = Int(min(UInt64(buffer.count), content.size - offset.rawValue))
            var done = 0
            while done < total {
                let position = offset.rawValue + UInt64(done)
                let start = Int(position % Self.pageBytes)
                let count = min(Int(Self.pageBytes) - start, total - done)
                let target = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + count)])
                if let page = content.pages[position / Self.pageBytes] {
                    page.withUnsafeBytes {
                        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + count)]))
                    }
                } else {
                    target.initializeMemory(as: UInt8.self, repeating: 0)
                }
                done += count
            }
            return total
        }
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        content.withLock { content in
            guard offset.rawValue < content.size else { return nil }
            let page = offset.rawValue / Self.pageBytes
            if content.pages[page] != nil { return offset }
            guard let next = content.pages.keys.filter({ $0 > page }).min() else { return nil }
            return next * Self.pageBytes < content.size ? HostOffset(next * Self.pageBytes) : nil
        }
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        content.withLock { content in
            var position = offset.rawValue
            while position < content.size, content.pages[position / Self.pageBytes] != nil {
                position = (position / Self.pageBytes + 1) * Self.pageBytes
            }
            return HostOffset(min(position, content.size))
        }
    }

    package func allocatedBytes() throws(ImageError) -> UInt64 {
        content.withLock { UInt64($0.pages.count) * Self.pageBytes }
    }

    package func flush() throws(ImageError) {}

    package func close() {}
}
