package import Bytes
package import Storage
internal import Synchronization

/// A file in memory, as the formats see one. It can be written like any file; what is punched reads as zeros.
package final class MemoryStorage: Storage {
    package let name: String
    package let identity: FileIdentity?
    private let content: Mutex<[UInt8]>

    /// A file of `bytes` called `name`.
    package init(_ bytes: [UInt8], name: String = "memory") {
        self.name = name
        identity = nil
        content = Mutex(bytes)
    }

    package var size: UInt64 { content.withLock { UInt64($0.count) } }

    package func refresh() throws(ImageError) -> UInt64 { size }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        content.withLock { bytes in
            guard offset.rawValue < UInt64(bytes.count) else { return 0 }
            let start = Int(offset.rawValue)
            let count = min(buffer.count, bytes.count - start)
            bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + count)]))
            }
            return count
        }
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        offset.rawValue < size ? offset : nil
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }

    package func allocatedBytes() throws(ImageError) -> UInt64 { size }

    package func flush() throws(ImageError) {}

    package func close() {}

    package var isWritable: Bool { true }

    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard bytes.count > 0 else { return }
        content.withLock { content in
            let start = Int(offset.rawValue)
            if content.count < start + bytes.count {
                content += [UInt8](repeating: 0, count: start + bytes.count - content.count)
            }
            content.withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[start..<(start + bytes.count)]).copyMemory(from: bytes)
            }
        }
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        guard try punch(at: offset, count: count) else { throw ImageError(.io, "memory that cannot be zeroed") }
    }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard holds(offset, count: count) else {
            throw ImageError(.outOfRange, "a hole past the end of the file", at: offset.rawValue, file: name)
        }
        patch([UInt8](repeating: 0, count: Int(count)), at: Int(offset.rawValue))
        return true
    }

    package func resize(to size: UInt64) throws(ImageError) { truncate(to: Int(size)) }

    /// All of the file's bytes.
    package var bytes: [UInt8] { content.withLock { $0 } }

    /// Replaces the bytes from `offset` on, growing the file where they reach past its end.
    package func patch(_ bytes: [UInt8], at offset: Int) {
        content.withLock { content in
            if content.count < offset + bytes.count {
                content += [UInt8](repeating: 0, count: offset + bytes.count - content.count)
            }
            content.replaceSubrange(offset..<(offset + bytes.count), with: bytes)
        }
    }

    /// Cuts or extends the file to `size` bytes.
    package func truncate(to size: Int) {
        content.withLock { content in
            if size < content.count { content.removeLast(content.count - size) }
            content += [UInt8](repeating: 0, count: max(0, size - content.count))
        }
    }
}
