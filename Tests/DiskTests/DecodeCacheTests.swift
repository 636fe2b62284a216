internal import Bytes
@testable internal import Disk
internal import Storage
internal import Testing

/// The cache of decoded units: its limit, and who has to go.
@Suite struct DecodeCacheTests {
    private static let unitBytes = 4096

    private func unit(_ index: Int) -> StoredUnit {
        StoredUnit(file: 0, offset: HostOffset(UInt64(index) * 512), length: 512)
    }

    private func decoded(_ byte: UInt8) throws(ImageError) -> DecodedUnit {
        try DecodedUnit(count: Self.unitBytes) { memory in
            memory.initializeMemory(as: UInt8.self, repeating: byte)
        }
    }

    @Test func keepsNoMoreThanItsLimit() throws {
        // Below 8 MiB there is one shard, so the limit is exact.
        let cache = DecodeCache(limitBytes: 16 * Self.unitBytes)
        for index in 0..<1000 { cache.keep(try decoded(UInt8(index % 251)), as: unit(index)) }
        let kept = (0..<1000).filter { cache.unit(unit($0)) != nil }
        #expect(kept == Array(984..<1000))
        #expect(cache.unit(unit(999))?.bytes.first == UInt8(999 % 251))
    }

    @Test func whatIsWantedOutlivesWhatIsNot() throws {
        let cache = DecodeCache(limitBytes: 16 * Self.unitBytes)
        cache.keep(try decoded(7), as: unit(0))
        for index in 1..<500 {
            #expect(cache.unit(unit(0)) != nil, "dropped before \(index)")
            cache.keep(try decoded(1), as: unit(index))
        }
    }

    @Test func aUnitLargerThanTheLimitIsNotKept() throws {
        let cache = DecodeCache(limitBytes: Self.unitBytes - 1)
        cache.keep(try decoded(7), as: unit(0))
        #expect(cache.unit(unit(0)) == nil)
    }
}
