import Bytes
import Formats
import Storage
import Synchronization
import TestSupport
import Testing

@Suite struct MetadataCacheTests {
    private func read(_ cache: MetadataCache, at offset: UInt64, count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        try bytes.withUnsafeMutableBytes { try cache.read(at: HostOffset(offset), into: $0) }
        return bytes
    }

    /// The file of these tests: every aligned word holds its own offset, so that a torn or foreign page shows.
    private func words(_ size: Int) -> MemoryStorage {
        MemoryStorage(
            (0..<(size / 8)).flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: (word * 8) >> ($0 * 8)) } })
    }

    @Test(arguments: [0, 1, 7, 4090, 4096, 99_999] as [UInt64], [1, 8, 13, 4096, 20_000])
    func readsWhatTheFileHolds(offset: UInt64, count: Int) throws {
        let storage = words(128 << 10)
        let cache = MetadataCache(storage, limitBytes: 0)
        for _ in 0..<2 {
            #expect(try read(cache, at: offset, count: count) == storage.bytes(at: HostOffset(offset), count: count))
        }
    }

    @Test func bytesPastTheEndAreZeros() throws {
        let cache = MetadataCache(MemoryStorage([UInt8](repeating: 9, count: 5000)), limitBytes: 0)
        let tail: [UInt8] = [9, 9] + [UInt8](repeating: 0, count: 9_998)
        #expect(try read(cache, at: 4998, count: 10_000) == tail)
        #expect(try read(cache, at: 1 << 62, count: 4) == [0, 0, 0, 0])
        #expect(failureKind { _ = try read(cache, at: UInt64.max - 3, count: 16) } == .corrupt)
    }

    /// A file that a writer lets grow, or trims at the end of its session, at the worst moment.
    private final class ChangingStorage: Storage {
        let inner: MemoryStorage
        let sizes: Mutex<[UInt64]>

        /// Says `sizes`, one after the other, and then the last of them.
        init(_ inner: MemoryStorage, sizes: [UInt64]) {
            self.inner = inner
            self.sizes = Mutex(sizes)
        }

        var name: String { inner.name }
        var identity: FileIdentity? { inner.identity }
        var size: UInt64 { sizes.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] } }
        func refresh() throws(ImageError) -> UInt64 { size }
        func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
            try inner.read(at: offset, into: buffer)
        }
        func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }
        func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { offset }
        func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }
        func allocatedBytes() throws(ImageError) -> UInt64 { size }
        func flush() throws(ImageError) {}
        func close() {}
    }

    @Test(arguments: [[5000, 90_000], [90_000, 5000]] as [[UInt64]])
    func aFileThatGrowsOrIsTrimmedMeanwhileIsNotCorrupt(sizes: [UInt64]) throws {
        let storage = ChangingStorage(MemoryStorage([UInt8](repeating: 9, count: 5000)), sizes: sizes)
        #expect(try read(MetadataCache(storage, limitBytes: 0), at: 4998, count: 4) == [9, 9, 0, 0])
    }

    @Test func aFileThatLostItsEndIsCorrupt() throws {
        let storage = ChangingStorage(MemoryStorage([UInt8](repeating: 9, count: 5000)), sizes: [90_000])
        #expect(failureKind { _ = try read(MetadataCache(storage, limitBytes: 0), at: 4998, count: 4) } == .corrupt)
    }

    /// Eight threads over a file 32 times as large as the cache: frames are replaced under the readers all the time.
    @Test func manyReadersOfATinyCacheSeeWholePages() throws {
        let storage = words(8 << 20)
        let cache = MetadataCache(storage, limitBytes: 256 << 10)
        try concurrently(8) { thread in
            var random = SeededRandom(seed: UInt64(thread))
            var buffer = [UInt64](repeating: 0, count: 600)
            for _ in 0..<3_000 {
                let count = Int.random(in: 1...600, using: &random)
                let first = Int.random(in: 0...((8 << 20) / 8 - count), using: &random)
                try buffer.withUnsafeMutableBytes {
                    let part = UnsafeMutableRawBufferPointer(rebasing: $0[..<(count * 8)])
                    try cache.read(at: HostOffset(UInt64(first * 8)), into: part)
                }
                for index in 0..<count where UInt64(littleEndian: buffer[index]) != UInt64((first + index) * 8) {
                    throw ContractViolation("word \(first + index) is \(buffer[index])")
                }
            }
        }
    }

    @Test func aHitReadsNothing() throws {
        let counting = CountingStorage(words(1 << 20))
        let cache = MetadataCache(counting, limitBytes: 1 << 20)
        _ = try read(cache, at: 4096, count: 8)
        #expect(counting.counts.reads == 1)
        #expect(counting.counts.bytes == 4096)
        for offset in stride(from: UInt64(4096), to: 8192, by: 100) { _ = try read(cache, at: offset, count: 8) }
        #expect(counting.counts.reads == 1)
    }

    @Test func aWalkReadsGroupsAndNeverMore() throws {
        let counting = CountingStorage(words(1 << 20))
        let cache = MetadataCache(counting, limitBytes: 256 << 10)
        for offset in stride(from: UInt64(0), to: 1 << 20, by: 4096) { _ = try read(cache, at: offset, count: 8) }
        #expect(counting.counts.largestRead <= 64 << 10)
        #expect(counting.counts.reads <= 2 * 16)
        #expect(counting.counts.bytes == 1 << 20)
    }

    /// What was used recently stays: a hot page is not read again for every cold one.
    @Test func aHotPageStays() throws {
        let counting = CountingStorage(words(16 << 20))
        let cache = MetadataCache(counting, limitBytes: 256 << 10)
        var random = SeededRandom(seed: 5)
        for _ in 0..<4_000 {
            _ = try read(cache, at: 0, count: 8)
            _ = try read(cache, at: UInt64.random(in: 0..<(16 << 20), using: &random), count: 1)
        }
        let hot = counting.counts.ranges.filter { $0.lowerBound == 0 }.count
        #expect(hot < 400, "the hot page was read \(hot) times")
    }

    /// Untouched frames are no memory: a cache of 1 GiB for each of 64 images must cost nothing until it is used.
    @Test func memoryComesWithUse() throws {
        let before = try residentBytes()
        let caches = (0..<8).map { _ in MetadataCache(words(4096), limitBytes: 256 << 20) }
        for cache in caches { _ = try read(cache, at: 0, count: 8) }
        #expect(try residentBytes() < before + (256 << 20))
    }

    private func residentBytes() throws -> Int {
        let fields = try HostFiles.text("/proc/self/statm").split(separator: " ")
        return (Int(fields[1]) ?? 0) * 4096
    }

    @Test func aFileThatShrankIsCorrupt() throws {
        let directory = try TemporaryDirectory("cache")
        let path = try directory.write([UInt8](repeating: 1, count: 100_000), to: "file")
        let cache = MetadataCache(try FileStorage(path: path), limitBytes: 0)
        _ = try read(cache, at: 0, count: 8)
        try HostFiles.truncate(path, to: 50_000)
        #expect(try read(cache, at: 0, count: 8) == [UInt8](repeating: 1, count: 8))
        #expect(try read(cache, at: 40_960, count: 8) == [UInt8](repeating: 1, count: 8))
        #expect(failureKind { _ = try read(cache, at: 90_000, count: 8) } == .corrupt)
    }

    @Test func afterAFailureTheNextReadTriesAgain() throws {
        let storage = words(1 << 20)
        let cache = MetadataCache(FaultStorage(storage, failing: 1, as: .errorOnce), limitBytes: 0)
        _ = try read(cache, at: 0, count: 8)
        #expect(failureKind { _ = try read(cache, at: 500_000, count: 8) } == .io)
        #expect(try read(cache, at: 500_000, count: 8) == storage.bytes(at: HostOffset(500_000), count: 8))
    }

    @Test func aShortReadIsNotTakenForZeros() throws {
        let cache = MetadataCache(FaultStorage(words(1 << 20), failing: 0, as: .short), limitBytes: 0)
        #expect(failureKind { _ = try read(cache, at: 4096, count: 4096) } == .corrupt)
        #expect(try read(cache, at: 8184, count: 2) == [0xF8, 0x1F])
    }

    @Test func holesAreSteppedOver() throws {
        let storage = SparseMemoryStorage(size: 1 << 50)
        storage.patch([1], at: 1 << 40)
        let cache = MetadataCache(storage, limitBytes: 0)
        #expect(try cache.holeLength(at: HostOffset(0), limit: .max) == 1 << 40)
        #expect(try cache.holeLength(at: HostOffset(5), limit: 100) == 100)
        #expect(try cache.holeLength(at: HostOffset(1 << 40), limit: 100) == 0)
        #expect(try cache.holeLength(at: HostOffset(1 << 41), limit: 100) == 100)
        #expect(try cache.holeLength(at: HostOffset(1 << 60), limit: 100) == 100)
    }
}
