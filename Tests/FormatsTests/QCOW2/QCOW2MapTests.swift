import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What L1 and L2 entries say, right ones and wrong ones.
@Suite struct QCOW2MapTests {
    @Test func zeroClustersHideTheParentAndUnallocatedOnesDoNot() throws {
        var builder = QCOW2Builder()
        let kept = builder.add([UInt8](repeating: 9, count: builder.cluster))
        builder.clusters = [0: (1, 0), 1: (kept | 1, 0), 2: (kept | 1 | 1 << 63, 0), 3: (0, 0), 4: (kept | 1 << 63, 0)]
        let reader = try builder.open()
        let kinds = try (0...5).map { try reader.kind(at: $0 * 4096) }
        #expect(kinds == ["zero", "zero", "zero", "hole", "data", "hole"])
    }

    @Test func theZeroFlagIsCorruptionInVersion2() throws {
        var builder = QCOW2Builder()
        builder.version = 2
        let data = builder.add([UInt8](repeating: 9, count: builder.cluster))
        builder.clusters = [0: (1, 0), 1: (data | 1, 0), 2: (data, 0)]
        let reader = try builder.open()
        #expect(reader.driver.shape.subformat == "v2")
        let error1 = imageError { _ = try reader.bytes(0, 1) }
        #expect(error1?.kind == .corrupt)
        let error2 = imageError { _ = try reader.bytes(4096, 1) }
        #expect(error2?.kind == .corrupt)
        #expect(try reader.bytes(8192, 4096) == [UInt8](repeating: 9, count: 4096))
    }

    @Test(
        arguments: [
            ("reserved bit 1", 0x2000 | 1 << 1), ("reserved bit 8", 0x2000 | 1 << 8),
            ("reserved bit 56", 0x2000 | 1 << 56),
            ("reserved bit 61", 0x2000 | 1 << 61), ("unaligned", 0x2200), ("unaligned zero", 0x2201),
            ("past the end", 0x100_0000), ("far past the end", 0x00FF_FFFF_FFFF_F000),
            ("compressed past the end", 1 << 62 | 0x100_0000), ("compressed in the header", 1 << 62 | 0x80),
            ("compressed, all ones", UInt64.max),
        ] as [(String, UInt64)])
    func aWrongL2EntryIsAnErrorForItsClusterAlone(name: String, entry: UInt64) throws {
        var builder = QCOW2Builder()
        let content = [UInt8](repeating: 9, count: builder.cluster)
        let data = builder.add(content)
        builder.clusters = [0: (data, 0), 1: (entry, 0), 2: (data, 0)]
        let reader = try builder.open()
        let error = imageError { _ = try reader.bytes(4096, 4096) }
        #expect(error?.kind == .corrupt)
        #expect(error?.errno == ImageError.Kind.corrupt.defaultErrno)
        #expect(error?.offset.map { $0 % 4096 == 8 } == true, "the place of the entry")
        #expect(try reader.bytes(0, 4096) == content)
        #expect(try reader.bytes(8192, 4096) == content)
        var list = ExtentList(for: ByteRange(0, to: 12288))
        try reader.driver.map(.placement, into: &list)
        #expect(list.covered == 4096, "damage further on ends the answer early")
    }

    @Test(
        arguments: [
            ("past the end", 0x1000_0000), ("at the end", 0x6000), ("unaligned", 0x2200), ("reserved bit 0", 0x3001),
            ("reserved bit 62", 0x3000 | 1 << 62), ("reserved bit 56", 0x3000 | 1 << 56),
        ] as [(String, UInt64)])
    func aWrongL1EntryIsAnErrorForItsTableAlone(name: String, entry: UInt64) throws {
        var builder = QCOW2Builder(size: 6 << 20)
        let content = [UInt8](repeating: 9, count: builder.cluster)
        let data = builder.add(content)
        builder.clusters = [0: (data, 0), 1024: (data, 0)]
        builder.l1Entries = [1: entry]
        let reader = try builder.open()
        let error3 = imageError { _ = try reader.bytes(2 << 20, 1) }
        #expect(error3?.kind == .corrupt)
        let error4 = imageError { _ = try reader.bytes((4 << 20) - 1, 1) }
        #expect(error4?.kind == .corrupt)
        #expect(try reader.bytes(0, 4096) == content)
        #expect(try reader.bytes(4 << 20, 4096) == content)
    }

    @Test func anEmptyRangeHasAnEmptyMap() throws {
        let reader = try QCOW2Builder(size: 0).open()
        #expect(reader.size == 0)
        var list = ExtentList(for: ByteRange(0, to: 0))
        try reader.driver.map(.allocation, into: &list)
        #expect(list.count == 0)
    }

    @Test func aFileMayEndInTheLastClusterBehindTheEndOfTheDisk() throws {
        var builder = QCOW2Builder(size: 8192 + 512)
        builder.clusters[2] = (0x5000, 0)
        var bytes = builder.build()
        #expect(bytes.count <= 0x5000)
        bytes += [UInt8](repeating: 0, count: 0x5000 - bytes.count) + [UInt8](repeating: 3, count: 512)
        let reader = try QCOW2Builder.open(bytes)
        #expect(try reader.bytes(8192, 512) == [UInt8](repeating: 3, count: 512))
    }

    @Test func bytesBehindTheEndOfTheFileAreAnErrorAndThoseBeforeItAreRead() throws {
        var builder = QCOW2Builder()
        builder.clusters[0] = (0x5000, 0)
        var bytes = builder.build()
        bytes += [UInt8](repeating: 0, count: 0x5000 - bytes.count) + [UInt8](repeating: 3, count: 1000)
        let reader = try QCOW2Builder.open(bytes)
        #expect(try reader.bytes(0, 1000) == [UInt8](repeating: 3, count: 1000))
        let error5 = imageError { _ = try reader.bytes(1000, 1) }
        #expect(error5?.kind == .corrupt)
        let error6 = imageError { _ = try reader.bytes(0, 4096) }
        #expect(error6?.kind == .corrupt)
        #expect(try reader.kind(at: 4096) == "hole")
    }

    @Test func runsThatFollowEachOtherAreJoined() throws {
        var builder = QCOW2Builder(clusterBits: 9, size: 1 << 20)
        let data = builder.add([UInt8](repeating: 1, count: 300 * 512))
        for index in 0..<300 as Range<UInt64> { builder.clusters[100 + index] = (data + index * 512, 0) }
        let reader = try builder.open()
        var list = ExtentList(for: ByteRange(0, to: 1 << 20))
        try reader.driver.map(.allocation, into: &list)
        #expect(list.isComplete)
        #expect((0..<list.count).map { list[$0].length } == [51200, 153_600, (1 << 20) - 204_800])
        try checkFormatDriver(reader.driver)
    }

    @Test func aDiskOf2To50BytesOpensAndIsWalkedAtOnce() throws {
        let bits: UInt32 = 16
        let entries = (UInt64(1) << 50) / (8192 << 16)
        let storage = SparseMemoryStorage(size: 0x3_0000 + entries * 8)
        var builder = QCOW2Builder(clusterBits: bits, size: 1 << 20)
        builder.clusters = [:]
        var header = Array(builder.build()[..<4096])
        header.put(UInt64(1) << 50, at: 24)
        header.put(UInt32(entries), at: 36)
        header.put(UInt64(0x3_0000), at: 40)
        storage.patch(header, at: 0)
        let counting = CountingStorage(storage)
        let start = monotonicSeconds()
        let driver = try QCOW2.open(OpenRequest(storage: counting, companions: NoCompanions()))
        let runs = try DriverReader(driver).runs(ByteRange(0, to: 1 << 50))
        #expect(monotonicSeconds() - start < 0.05)
        #expect(runs.reduce(0) { $0 + $1.length } == 1 << 50)
        #expect(counting.counts.bytes < 1 << 20, "no table is read whole")
        #expect(counting.counts.largestRead <= 1 << 16)
    }

    @Test func aDenseEmptyL1TableIsWalkedInBoundedSteps() throws {
        let entries = 1 << 22
        var builder = QCOW2Builder(clusterBits: 9, size: 1 << 20)
        builder.clusters = [:]
        var bytes = builder.build()
        let l1 = bytes.count
        bytes += [UInt8](repeating: 0, count: entries * 8)
        bytes.put(UInt64(entries) << 15, at: 24)
        bytes.put(UInt32(entries), at: 36)
        bytes.put(UInt64(l1), at: 40)
        let reader = try QCOW2Builder.open(bytes)
        var list = ExtentList(for: ByteRange(0, to: reader.size))
        try reader.driver.map(.allocation, into: &list)
        #expect(!list.isComplete, "one call must not walk everything")
        let runs = try reader.runs(ByteRange(0, to: reader.size))
        #expect(runs.count <= 64)
        #expect(runs.reduce(0) { $0 + $1.length } == reader.size)
    }

    @Test func aWarmReadAsksTheFileForNothing() throws {
        var builder = QCOW2Builder()
        builder.clusters[5] = (builder.add([UInt8](repeating: 1, count: 4096)), 0)
        let counting = CountingStorage(MemoryStorage(builder.build()))
        let driver = try QCOW2.open(OpenRequest(storage: counting, companions: NoCompanions()))
        for round in 0..<2 {
            counting.reset()
            var list = ExtentList(for: ByteRange(5 * 4096, to: 6 * 4096))
            try driver.map(.placement, into: &list)
            #expect(list.isComplete)
            if round == 1 { #expect(counting.counts.reads == 0 && counting.counts.seeks == 0) }
        }
    }

    @Test(arguments: 1...16 as ClosedRange<UInt64>)
    func damagedBytesEndInBytesOrAnError(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var builder = QCOW2Builder(clusterBits: 14, size: 3 << 20)
        builder.incompatible = seed % 2 == 0 ? 16 : 0
        for index in 0..<40 as Range<UInt64> { builder.clusters[index * 3] = (builder.add(random.bytes(64)), 0xFFFF) }
        builder.snapshotCount = 2
        builder.snapshotsOffset = builder.add(random.bytes(300))
        let whole = builder.build()
        for _ in 0..<20 {
            var bytes = whole
            let near = Bool.random(using: &random) ? 128 : bytes.count
            for _ in 0..<4 {
                bytes[Int.random(in: 0..<near, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            guard let reader = try? QCOW2Builder.open(bytes) else { continue }
            for index in reader.driver.snapshots.indices.prefix(4) { _ = try? reader.driver.openSnapshot(index) }
            var position: UInt64 = 0
            for _ in 0..<400 where position < reader.size {
                var list = ExtentList(for: ByteRange(position, to: reader.size))
                let failure = imageError { try reader.driver.map(.placement, into: &list) }
                if failure == nil {
                    try #require(list.covered > 0)
                    position += list.covered
                } else {
                    position += 16384
                }
            }
        }
    }
}
