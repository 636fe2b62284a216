package import Bytes
package import Storage
internal import Synchronization

/// Passes everything on to another storage and counts it: for "reads at most a header" and "no table is read whole".
package final class CountingStorage: Storage {
    /// What has been asked for so far.
    package struct Counts: Sendable, Equatable {
        /// Calls of `read`.
        package var reads = 0
        /// Bytes that they returned.
        package var bytes: UInt64 = 0
        /// The longest single read.
        package var largestRead = 0
        /// Calls of `nextData` and `nextHole`.
        package var seeks = 0
        /// Every range that was read.
        package var ranges: [Range<UInt64>] = []
    }

    private let storage: any Storage
    private let state = Mutex(Counts())

    /// Counts what is asked of `storage`.
    package init(_ storage: any Storage) { self.storage = storage }

    /// What has been asked for so far.
    package var counts: Counts { state.withLock { $0 } }

    /// Starts again at nothing.
    package func reset() { state.withLock { $0 = Counts() } }

    package var name: String { storage.name }

    package var identity: FileIdentity? { storage.identity }

    package var size: UInt64 { storage.size }

    package func refresh() throws(ImageError) -> UInt64 { try storage.refresh() }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let count = try storage.read(at: offset, into: buffer)
        state.withLock {
            $0.reads += 1
            $0.bytes += UInt64(count)
            $0.largestRead = max($0.largestRead, count)
            if count > 0 { $0.ranges.append(offset.rawValue..<(offset.rawValue + UInt64(count))) }
        }
        return count
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? {
        try storage.splice(from: offset, count: count, into: pipe)
    }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        state.withLock { $0.seeks += 1 }
        return try storage.nextData(from: offset)
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        state.withLock { $0.seeks += 1 }
        return try storage.nextHole(from: offset)
    }

    package func allocatedBytes() throws(ImageError) -> UInt64 { try storage.allocatedBytes() }

    package func flush() throws(ImageError) { try storage.flush() }

    package func close() { storage.close() }
}
