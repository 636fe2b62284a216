import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Logs in use: which entries count, what replay does, what is refused. Every image's BAT page is changed by its log, so
/// that the content tells whether the log was replayed.
@Suite struct VHDXLogTests {
    private static let mib: UInt64 = 1 << 20

    /// A disk of 4 blocks, all of them in the file, none in the table.
    private func image(logLength: UInt64 = mib) -> (builder: VHDXBuilder, log: VHDXLogBuilder) {
        var builder = VHDXBuilder(size: 4 * Self.mib, logLength: logLength)
        for block in 0..<4 as Range<UInt64> { builder.add(block, VHDXLogBuilder.page(block)) }
        builder.entries = [:]
        let log = VHDXLogBuilder(&builder)
        return (builder, log)
    }

    /// The table's first page with the given blocks present.
    private func table(_ builder: VHDXBuilder, _ blocks: [UInt64]) -> VHDXLogBuilder.Change {
        var page = [UInt8](repeating: 0, count: 4096)
        for block in blocks {
            let word = builder.nextFree - (4 - block) * Self.mib | 6
            page.replaceSubrange(Int(block * 8)..<Int(block * 8 + 8), with: VHDXBuilder.little(word))
        }
        return .page(builder.tableOffset, page)
    }

    private func present(_ storage: any Storage) throws -> [UInt64] {
        let reader = try VHDXBuilder.open(storage)
        return try (0..<4 as Range<UInt64>).filter { block in
            try reader.read(ByteRange(block * Self.mib, to: block * Self.mib + 4096)) == VHDXLogBuilder.page(block)
        }
    }

    private func kind(_ storage: any Storage) -> ImageError.Kind? {
        failureKind { _ = try VHDXBuilder.open(storage) }
    }

    @Test func logIsReplayedInMemoryAndTheFileStays() throws {
        let (builder, log) = image()
        log.put([table(builder, [0, 2])], at: 0, sequence: 5, tail: 0)
        let storage = builder.build()
        let before = try SHA256.of(storage)
        let driver = try VHDXBuilder.open(storage).driver
        #expect(driver.shape.remarks.count == 1)
        #expect(try present(storage) == [0, 2])
        #expect(try VHDX.virtualSize(of: storage, options: FormatOptions()) == 4 * Self.mib)
        #expect(try SHA256.of(storage) == before)
        try checkFormatDriver(driver)
        let allocated = try driver.files.reduce(UInt64(0)) { try $0 + $1.allocatedBytes() }
        #expect(try allocated == storage.allocatedBytes(), "the file counts once, although it is there twice")
    }

    @Test func sizeOfADirtyImageIsTheReplayedOne() throws {
        let (builder, log) = image()
        let storage = builder.build()
        // The size item lies 8 bytes into the first page of items.
        let place = builder.metadataOffset + 64 << 10
        var page = try storage.bytes(at: HostOffset(place), count: 4096)
        page.replaceSubrange(8..<16, with: VHDXBuilder.little(2 * Self.mib))
        log.put([.page(place, page)], at: 0, sequence: 1, tail: 0)
        #expect(try VHDX.virtualSize(of: storage, options: FormatOptions()) == 2 * Self.mib)
        #expect(try VHDXBuilder.open(storage).size == 2 * Self.mib)
    }

    /// A listing looks at every image of a directory, and anybody can make a file whose log is a hole of 1 GiB.
    @Test func aLongLogIsNotReadForAListing() throws {
        var builder = VHDXBuilder(size: 4 * Self.mib, logLength: 64 * Self.mib)
        let log = VHDXLogBuilder(&builder)
        log.put([.page(builder.metadataOffset + 128 << 10, VHDXLogBuilder.page(1))], at: 0, sequence: 1, tail: 0)
        let storage = CountingStorage(builder.build())
        #expect(try VHDX.virtualSize(of: storage, options: FormatOptions()) == 4 * Self.mib)
        #expect(storage.counts.bytes < Self.mib)
    }

    @Test func entriesAreAppliedInOrder() throws {
        let (builder, log) = image()
        var next = log.put([table(builder, [0])], at: 4096, sequence: 5, tail: 4096)
        next = log.put([table(builder, [0, 1])], at: next, sequence: 6, tail: 4096)
        log.put([table(builder, [0, 1, 3])], at: next, sequence: 7, tail: 4096)
        #expect(try present(builder.build()) == [0, 1, 3])
    }

    @Test func entriesBeforeTheTailAreNotApplied() throws {
        let (builder, log) = image()
        let page = builder.nextFree - 3 * Self.mib
        let next = log.put([.page(page, VHDXLogBuilder.page(99))], at: 0, sequence: 5, tail: 0)
        log.put([table(builder, [0, 1])], at: next, sequence: 6, tail: next)
        #expect(try present(builder.build()) == [0, 1])
    }

    @Test(arguments: [1, 126, 127, 200])
    func entriesOfManyDescriptors(count: Int) throws {
        let (builder, log) = image(logLength: 2 * Self.mib)
        let pages = (0..<UInt64(count - 1)).map { index in
            VHDXLogBuilder.Change.page(builder.nextFree - Self.mib + index * 4096, VHDXLogBuilder.page(1000 + index))
        }
        log.put(pages + [table(builder, [3])], at: 0, sequence: 1, tail: 0)
        let reader = try VHDXBuilder.open(builder.build())
        for index in 0..<UInt64(count - 1) {
            let start = 3 * Self.mib + index * 4096
            #expect(try reader.read(ByteRange(start, to: start + 4096)) == VHDXLogBuilder.page(1000 + index))
        }
        try checkFormatDriver(reader.driver)
    }

    @Test func entryOf300DescriptorsThatWraps() throws {
        let (builder, log) = image(logLength: 2 * Self.mib)
        let zeros = (0..<298 as Range<UInt64>).map {
            VHDXLogBuilder.Change.zeros(builder.nextFree - Self.mib + $0 * 4096, 4096)
        }
        let start = 2 * Self.mib - 8192
        let page = VHDXLogBuilder.Change.page(builder.nextFree - 2 * Self.mib, VHDXLogBuilder.page(77))
        log.put(zeros + [page, table(builder, [2, 3])], at: start, sequence: 9, tail: start)
        let reader = try VHDXBuilder.open(builder.build())
        #expect(try reader.read(ByteRange(2 * Self.mib, to: 2 * Self.mib + 4096)) == VHDXLogBuilder.page(77))
        #expect(try reader.read(ByteRange(3 * Self.mib, to: 3 * Self.mib + 4096)) == [UInt8](repeating: 0, count: 4096))
    }

    @Test func sequenceThatWrapsIsFoundWhole() throws {
        let (builder, log) = image()
        let start = Self.mib - 8192
        var next = log.put([table(builder, [1])], at: start, sequence: 8, tail: start)
        next = log.put([.zeros(builder.nextFree - 4 * Self.mib, 4096)], at: next, sequence: 9, tail: start)
        log.put([], at: next, sequence: 10, tail: start)
        #expect(try present(builder.build()) == [1])
    }

    @Test func laterPageWinsOverZerosAndLaterZerosOverAPage() throws {
        let (builder, log) = image()
        let block = builder.nextFree - 4 * Self.mib
        let first: [VHDXLogBuilder.Change] = [
            .page(block, VHDXLogBuilder.page(50)), .page(block + 4096, VHDXLogBuilder.page(51)),
        ]
        var next = log.put(first, at: 0, sequence: 1, tail: 0)
        next = log.put([.zeros(block, 3 * 4096)], at: next, sequence: 2, tail: 0)
        log.put([.page(block + 4096, VHDXLogBuilder.page(52)), table(builder, [0])], at: next, sequence: 3, tail: 0)
        let reader = try VHDXBuilder.open(builder.build())
        let zeros = [UInt8](repeating: 0, count: 4096)
        #expect(try reader.read(ByteRange(0, to: 3 * 4096)) == zeros + VHDXLogBuilder.page(52) + zeros)
    }

    @Test func tornLastEntryIsNotApplied() throws {
        let (builder, log) = image()
        let next = log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0)
        log.put([table(builder, [0, 1])], at: next, sequence: 2, tail: 0) { $0[$0.count - 2000] ^= 1 }
        #expect(try present(builder.build()) == [0])
    }

    @Test func staleEntriesOfAnotherLogAreNotApplied() throws {
        var (builder, log) = image()
        log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0)
        log.guid = VHDXBuilder.dataGUID
        log.put([table(builder, [3])], at: 8192, sequence: 2, tail: 0)
        log.put([table(builder, [3])], at: 1 << 19, sequence: 20, tail: 1 << 19)
        #expect(try present(builder.build()) == [0])
    }

    @Test func newestOfTwoSequencesIsActive() throws {
        let (builder, log) = image()
        log.put([table(builder, [0])], at: 0, sequence: 30, tail: 0)
        log.put([table(builder, [1])], at: 1 << 19, sequence: 40, tail: 1 << 19)
        log.put([table(builder, [2])], at: 1 << 18, sequence: 35, tail: 1 << 18)
        #expect(try present(builder.build()) == [1])
    }

    @Test func sequenceWithoutItsTailIsNoSequence() throws {
        let (builder, log) = image()
        log.put([table(builder, [0])], at: 0, sequence: 3, tail: 0)
        let start: UInt64 = 1 << 19
        let next = log.put([table(builder, [1])], at: start, sequence: 50, tail: start - 4096)
        log.put([table(builder, [1])], at: next, sequence: 51, tail: start - 4096)
        #expect(try present(builder.build()) == [0])
    }

    @Test func emptyEntriesMeanThatNothingIsToBeDone() throws {
        let (builder, log) = image()
        log.put([], at: 0, sequence: 1, tail: 0)
        let driver = try VHDXBuilder.open(builder.build()).driver
        #expect(driver.shape.remarks.isEmpty)
    }

    @Test func entryMayBeLongerThanItsContent() throws {
        let (builder, log) = image()
        let next = log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0, padding: 5)
        log.put([table(builder, [0, 3])], at: next, sequence: 2, tail: 0, padding: 14)
        #expect(try present(builder.build()) == [0, 3])
    }

    @Test func logInUseWithoutAValidSequenceIsRefused() {
        let (builder, _) = image()
        #expect(kind(builder.build()) == .corrupt)
    }

    /// Each breaks one rule of a valid entry; the checksum is made right again where the rule is not about it.
    @Test(arguments: [
        (0, 1, true), (5, 1, false), (9, 1, true), (11, 0x7F, true), (13, 1, true), (14, 0x10, true),
        (16, 0, true), (26, 1, true), (32, 1, true), (64, 1, true), (80, 1, true), (88, 1, true), (4096, 1, true),
        (4100, 1, true), (8188, 9, true), (5000, 1, false),
    ])
    func everyRuleOfAnEntryCounts(byte: Int, value: UInt8, isSealed: Bool) {
        let (builder, log) = image()
        log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0) { bytes in
            bytes[byte] = value == 0 ? 0 : bytes[byte] ^ value
            if isSealed { bytes = VHDXBuilder.sealed(bytes) }
        }
        #expect(kind(builder.build()) == .corrupt, "byte \(byte)")
    }

    @Test func fileShorterThanTheLogSaysWasTruncated() throws {
        let (builder, log) = image()
        log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0, flushed: builder.nextFree)
        #expect(try present(builder.build()) == [0])
        log.put([table(builder, [0])], at: 0, sequence: 1, tail: 0, flushed: builder.nextFree + Self.mib)
        #expect(kind(builder.build()) == .corrupt)
    }

    @Test func spaceThatReplayWouldAddReadsAsZeros() throws {
        let (builder, log) = image()
        let end = builder.nextFree + 8 * Self.mib
        var page = [UInt8](repeating: 0, count: 4096)
        page.replaceSubrange(0..<8, with: VHDXBuilder.little((end - Self.mib) | 6))
        page.replaceSubrange(8..<16, with: VHDXBuilder.little(end | 6))
        log.put([.page(builder.tableOffset, page)], at: 0, sequence: 1, tail: 0, last: end)
        let reader = try VHDXBuilder.open(builder.build())
        #expect(try reader.read(ByteRange(0, to: 4096)) == [UInt8](repeating: 0, count: 4096))
        #expect(failureKind { _ = try reader.read(ByteRange(Self.mib, to: Self.mib + 1)) } == .corrupt)
    }

    @Test(arguments: [0, 64 << 10, 188 << 10, 1 << 20, (2 << 20) - 4096] as [UInt64])
    func logThatChangesTheHeadersOrItselfIsRefused(offset: UInt64) {
        let (page, pages) = (image(), image())
        page.log.put([.page(offset, VHDXLogBuilder.page(1))], at: 0, sequence: 1, tail: 0)
        #expect(kind(page.builder.build()) == .corrupt)
        pages.log.put([.zeros(offset, 4096)], at: 0, sequence: 1, tail: 0)
        #expect(kind(pages.builder.build()) == .corrupt)
    }

    @Test func zerosPastEveryFileAreRefused() {
        for (offset, length) in [(UInt64(1) << 21, UInt64.max - 4095), (1 << 63, 4096), (1 << 20, 1 << 40)] {
            let (builder, log) = image()
            log.put([.zeros(offset, length)], at: 0, sequence: 1, tail: 0)
            #expect(kind(builder.build()) == .corrupt)
        }
    }

    @Test func regionTableIsReadThroughTheLog() throws {
        let (builder, log) = image()
        let storage = builder.build()
        let pages = try (0..<16 as Range<UInt64>).map { index in
            let place = 192 << 10 + index * 4096
            return VHDXLogBuilder.Change.page(place, try storage.bytes(at: HostOffset(place), count: 4096))
        }
        log.put(pages + [table(builder, [2])], at: 0, sequence: 1, tail: 0)
        storage.patch([UInt8](repeating: 0xAA, count: 128 << 10), at: 192 << 10)
        #expect(try present(storage) == [2])
    }

    @Test func largeLogFullOfFalseBeginningsIsRefusedSoon() {
        let (builder, log) = image(logLength: 4 * Self.mib)
        // Each claims the rest of the log as its own padding.
        for position in stride(from: 0, to: 4 * Self.mib, by: 4096) {
            log.put([], at: position, sequence: 1, tail: 0) { bytes in
                bytes.replaceSubrange(8..<12, with: VHDXBuilder.little(UInt32(4 * Self.mib)))
            }
        }
        #expect(kind(builder.build()) == .corrupt)
    }
}
