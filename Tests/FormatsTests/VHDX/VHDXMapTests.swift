import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Blocks, states, sector bitmaps and damage, on images built here.
@Suite struct VHDXMapTests {
    private static let mib: UInt64 = 1 << 20
    private static let locator = [
        ("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", #"..\base\parent.vhdx"#),
    ]

    private func bytes(_ seed: UInt64, _ count: Int = 4096) -> [UInt8] {
        var random = SeededRandom(seed: seed)
        return random.bytes(count)
    }

    private func kind(_ builder: VHDXBuilder, _ range: ByteRange) -> ImageError.Kind? {
        failureKind {
            let reader = try builder.open()
            _ = try reader.read(range)
        }
    }

    /// A parent of `size` bytes whose every sector differs from zeros.
    private func parent(_ size: UInt64) throws -> DriverReader {
        let storage = MemoryStorage([UInt8](repeating: 0x5A, count: Int(size)))
        return DriverReader(try Raw.open(OpenRequest(storage: storage, companions: NoCompanions())))
    }

    @Test(arguments: [512, 4096] as [UInt64], [1, 2, 32, 256] as [UInt64])
    func blocksPastTheFirstChunkAreFoundBesideTheBitmapEntries(sectorSize: UInt64, blockMiB: UInt64) throws {
        let blockSize = blockMiB << 20
        let chunk = sectorSize << 23
        let ratio = chunk / blockSize
        var builder = VHDXBuilder(size: chunk * 2 + blockSize * 2 + 8192, blockSize: blockSize, sectorSize: sectorSize)
        let blocks = [0, 1, ratio - 1, ratio, ratio + 1, 2 * ratio - 1, 2 * ratio, 2 * ratio + 2]
        for block in blocks { builder.add(block, bytes(block)) }
        let reader = try builder.open()
        for block in blocks {
            let start = block * blockSize
            #expect(try reader.read(ByteRange(start, to: start + 4096)) == bytes(block), "block \(block)")
        }
        let silent = ByteRange(blockSize * 2, to: blockSize * 2 + 4096)
        #expect(try reader.read(silent) == [UInt8](repeating: 0, count: 4096))
    }

    @Test func contractHoldsForDynamicDisk() throws {
        var builder = VHDXBuilder(size: 9 * Self.mib + 512, blockSize: 2 * Self.mib)
        builder.add(3, bytes(1, 3 << 19))
        builder.add(0, bytes(2, 1 << 20))
        builder.add(1, bytes(3, 1000))
        builder.add(4, bytes(4, 512))
        try checkFormatDriver(builder.open().driver)
    }

    @Test func contractHoldsForDifferencingDiskWithBitmaps() throws {
        var builder = VHDXBuilder(size: 5 * Self.mib, locator: Self.locator)
        let bitmap = bytes(5, 256) + [UInt8](repeating: 0xFF, count: 200) + [UInt8](repeating: 0, count: 56)
        builder.addBitmap(chunk: 0, bitmap)
        builder.add(0, state: 7, bytes(6, 1 << 20))
        builder.add(1, state: 7, bytes(7, 1 << 20))
        builder.add(2, bytes(8, 1 << 20))
        builder.entries[3] = 2
        try checkFormatDriver(builder.open().driver, parent: parent(4 * Self.mib))
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func undefinedZeroAndUnmappedReadAsZerosNeverTheParent(state: UInt64) throws {
        var builder = VHDXBuilder(size: 2 * Self.mib, locator: Self.locator)
        builder.add(0, state: state, bytes(1))
        let reader = try VHDXBuilder.open(builder.build(), parent: parent(2 * Self.mib))
        #expect(try reader.read(ByteRange(0, to: 4096)) == [UInt8](repeating: 0, count: 4096))
        #expect(try reader.read(ByteRange(Self.mib, to: Self.mib + 4)) == [0x5A, 0x5A, 0x5A, 0x5A])
    }

    @Test(arguments: [4, 5] as [UInt64])
    func reservedStatesAreCorrupt(state: UInt64) {
        var builder = VHDXBuilder(size: 2 * Self.mib)
        builder.add(1, state: state, bytes(1))
        #expect(kind(builder, ByteRange(0, to: Self.mib)) == nil)
        #expect(kind(builder, ByteRange(Self.mib, to: Self.mib + 1)) == .corrupt)
    }

    @Test func reservedBitsAreCorrupt() {
        var builder = VHDXBuilder(size: Self.mib)
        builder.add(0, bytes(1))
        builder.entries[0, default: 0] |= 1 << 10
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test func damageFurtherOnOnlyEndsTheAnswer() throws {
        var builder = VHDXBuilder(size: 4 * Self.mib)
        builder.add(0, bytes(1))
        builder.add(2, state: 4, bytes(1))
        let driver = try builder.open().driver
        var runs = ExtentList(for: ByteRange(0, to: 4 * Self.mib))
        try driver.map(.placement, into: &runs)
        #expect(runs.covered == 2 * Self.mib)
    }

    @Test(arguments: [512, 4096] as [UInt64])
    func sectorBitsCountFromTheLowest(sectorSize: UInt64) throws {
        var builder = VHDXBuilder(size: 2 * Self.mib, sectorSize: sectorSize, locator: Self.locator)
        builder.addBitmap(chunk: 0, [0b0000_0101, 0x80])
        let content = bytes(3, 1 << 20)
        builder.add(0, state: 7, content)
        let reader = try VHDXBuilder.open(builder.build(), parent: parent(2 * Self.mib))
        for sector in 0..<20 {
            let start = sector * Int(sectorSize)
            let expected = [0, 2, 15].contains(sector) ? content[start] : 0x5A
            #expect(try reader.read(ByteRange(UInt64(start), to: UInt64(start + 1))) == [expected], "sector \(sector)")
        }
    }

    @Test func aMapLooksAtABoundedPartOfTheSectorBitmaps() throws {
        // 16 TiB of partial blocks, which all share one block's space and one bitmap of zeros.
        var builder = VHDXBuilder(size: 1 << 44, blockSize: 256 << 20, locator: Self.locator)
        let bitmap = builder.addBitmap(chunk: 0, [])
        let payload = builder.add(0, state: 7, [])
        var words: [UInt8] = []
        for index in 0..<(builder.ratio + 1) * 4096 as Range<UInt64> {
            words += VHDXBuilder.little(index % (builder.ratio + 1) == builder.ratio ? bitmap | 6 : payload | 7)
        }
        let storage = builder.build()
        storage.patch(words, at: builder.tableOffset)
        let counting = CountingStorage(storage)
        let driver = try VHDXBuilder.open(counting).driver
        let start = monotonicSeconds()
        var runs = ExtentList(for: ByteRange(0, to: 1 << 44))
        try driver.map(.allocation, into: &runs)
        #expect(runs.count == 1 && !runs.isComplete && runs.covered >= 1 << 32)
        #expect(counting.counts.bytes < 8 << 20)
        #expect(monotonicSeconds() - start < 5)
    }

    @Test func bitmapOfTheSecondChunkIsUsedThere() throws {
        var builder = VHDXBuilder(size: 5 << 30, blockSize: 256 << 20, locator: Self.locator)
        builder.addBitmap(chunk: 0, [])
        builder.addBitmap(chunk: 1, [1])
        builder.add(16, state: 7, bytes(4))
        builder.add(15, state: 7, bytes(5))
        let reader = try VHDXBuilder.open(builder.build(), parent: parent(Self.mib))
        #expect(
            try reader.read(ByteRange(4 << 30, to: 4 << 30 + 1024)) == bytes(4).prefix(512)
                + [UInt8](repeating: 0, count: 512))
        #expect(
            try reader.read(ByteRange(15 * (256 << 20), to: 15 * (256 << 20) + 512))
                == [UInt8](repeating: 0, count: 512))
    }

    @Test func longBitmapRunsAreOneExtent() throws {
        var builder = VHDXBuilder(size: 64 << 20, blockSize: 64 << 20, locator: Self.locator)
        builder.addBitmap(chunk: 0, [UInt8](repeating: 0xFF, count: 10_000))
        builder.add(0, state: 7, bytes(4))
        var runs = ExtentList(for: ByteRange(100, to: 64 << 20))
        try builder.open().driver.map(.placement, into: &runs)
        #expect(runs.count == 2)
        #expect(runs[0].length == 80_000 * 512 - 100)
        #expect(runs.isComplete)
    }

    @Test func partialBlockNeedsAParent() {
        var builder = VHDXBuilder(size: Self.mib)
        builder.add(0, state: 7, bytes(1))
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test(arguments: [nil, 0, 7] as [UInt64?])
    func partialBlockNeedsItsBitmap(state: UInt64?) {
        var builder = VHDXBuilder(size: Self.mib, locator: Self.locator)
        builder.add(0, state: 7, bytes(1))
        if let state { builder.addBitmap(chunk: 0, [1], state: state) }
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test func bitmapsMarkedPresentInADynamicDiskAreIgnored() throws {
        var builder = VHDXBuilder(size: 5 << 30, blockSize: 256 << 20)
        builder.addBitmap(chunk: 0, [])
        builder.add(16, bytes(1))
        #expect(try builder.open().read(ByteRange(4 << 30, to: 4 << 30 + 4096)) == bytes(1))
    }

    @Test(arguments: [0, 1, 2, 3] as [UInt64])
    func blockInsideMetadataIsCorrupt(mebibyte: UInt64) {
        var builder = VHDXBuilder(size: Self.mib)
        builder.entries[0] = mebibyte << 20 | 6
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test func blockInAnOptionalRegionIsCorrupt() {
        var builder = VHDXBuilder(size: Self.mib)
        let place = builder.add(0, bytes(1))
        builder.regions.append(
            .init(guid: VHDXBuilder.logGUID, offset: place, length: Self.mib, isRequired: false))
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test func blockPastTheEndOfTheFileIsCorrupt() {
        var builder = VHDXBuilder(size: Self.mib)
        builder.entries[0] = 1 << 40 | 6
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
        builder.entries[0] = .max << 20 | 6
        #expect(kind(builder, ByteRange(0, to: 1)) == .corrupt)
    }

    @Test func truncatedBlockIsReadUpToTheEndOfTheFile() throws {
        var builder = VHDXBuilder(size: 4 * Self.mib, blockSize: 4 * Self.mib)
        builder.entries[0] = builder.nextFree | 6
        builder.storage.patch(bytes(9), at: builder.nextFree)
        let reader = try builder.open()
        #expect(try reader.read(ByteRange(0, to: 4096)) == bytes(9))
        #expect(failureKind { _ = try reader.read(ByteRange(4096, to: 4097)) } == .corrupt)
        #expect(failureKind { _ = try reader.read(ByteRange(0, to: 4097)) } == .corrupt)
    }

    @Test func lastBlockNeedsOnlyWhatTheDiskHas() throws {
        var builder = VHDXBuilder(size: 512, blockSize: 256 << 20)
        builder.entries[0] = builder.nextFree | 6
        builder.storage.patch(bytes(9, 512), at: builder.nextFree)
        #expect(try builder.open().read(ByteRange(0, to: 512)) == bytes(9, 512))
    }

    @Test func hugeEmptyDiskIsMappedAtOnce() throws {
        var builder = VHDXBuilder(size: 64 << 40)
        let last = (64 << 40) / Self.mib - 1
        builder.add(last, bytes(1))
        let storage = builder.build()
        let driver = try VHDXBuilder.open(storage).driver
        var position: UInt64 = 0
        var calls = 0
        while position < 64 << 40, calls < 40 {
            var runs = ExtentList(for: ByteRange(position, to: 64 << 40))
            try driver.map(.allocation, into: &runs)
            position += runs.covered
            calls += 1
        }
        #expect(position == 64 << 40)
        #expect(calls < 20)
        #expect(try VHDXBuilder.open(storage).read(ByteRange(last * Self.mib, to: last * Self.mib + 4096)) == bytes(1))
    }

    @Test func holesOfAFixedDiskAreZerosForAllocation() throws {
        var builder = VHDXBuilder(size: 8 * Self.mib, blockSize: 4 * Self.mib, isFixed: true)
        builder.add(0, bytes(1))
        builder.add(1, [])
        let driver = try builder.open().driver
        #expect(driver.shape.subformat == "fixed")
        var runs = ExtentList(for: ByteRange(0, to: 8 * Self.mib))
        try driver.map(.allocation, into: &runs)
        #expect(runs[0].length == 64 << 10)
        guard case .zero = runs[1].place else {
            Issue.record("the hole after the data is \(runs[1])")
            return
        }
        var placement = ExtentList(for: ByteRange(0, to: 8 * Self.mib))
        try driver.map(.placement, into: &placement)
        #expect(placement.count == 1)
        try checkFormatDriver(driver)
    }
}
