internal import Bytes
internal import Glibc
internal import Storage
internal import Synchronization

/// A file whose host fails at the n-th read or splice from now.
final class FaultStorage: Storage {
    private let inner: any Storage
    private let countdown = Mutex<Int?>(nil)

    init(_ inner: any Storage) { self.inner = inner }

    /// Fails call number `call` (0 is the next one) and no other; nil never fails.
    func fail(at call: Int?) { countdown.withLock { $0 = call } }

    private func count() throws(ImageError) {
        let fails = countdown.withLock { left in
            guard let value = left else { return false }
            left = value == 0 ? nil : value - 1
            return value == 0
        }
        if fails { throw ImageError(.io, "injected failure", errno: EIO) }
    }

    var name: String { inner.name }
    var identity: FileIdentity? { inner.identity }
    var size: UInt64 { inner.size }

    func refresh() throws(ImageError) -> UInt64 { try inner.refresh() }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        try count()
        return try inner.read(at: offset, into: buffer)
    }

    func splice(from offset: HostOffset, count bytes: Int, into pipe: PipeWriter) throws(ImageError) -> Int? {
        try count()
        return try inner.splice(from: offset, count: bytes, into: pipe)
    }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { try inner.nextData(from: offset) }
    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { try inner.nextHole(from: offset) }
    func allocatedBytes() throws(ImageError) -> UInt64 { try inner.allocatedBytes() }
    func flush() throws(ImageError) { try inner.flush() }
    func close() { inner.close() }
}
