import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Writing through the driver alone, on memory.
@Suite struct VHDXWriteTests {
    private static let mib: UInt64 = 1 << 20

    private func dynamic(
        blocks: UInt64 = 8, blockSize: UInt64 = mib, sectorSize: UInt64 = 512, isFixed: Bool = false,
        change: (inout VHDXBuilder) -> Void = { _ in }
    ) throws -> VHDXCrashStorage {
        var builder = VHDXBuilder(
            size: blocks * blockSize - 7 * sectorSize, blockSize: blockSize, sectorSize: sectorSize, isFixed: isFixed)
        change(&builder)
        return try VHDXCrashStorage(copying: builder.build())
    }

    private func child(change: (inout VHDXBuilder) -> Void = { _ in }) throws -> VHDXCrashStorage {
        var builder = VHDXBuilder(
            size: 8 * Self.mib,
            locator: [("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", "parent.vhdx")])
        change(&builder)
        return try VHDXCrashStorage(copying: builder.build())
    }

    private func parent() throws -> DriverReader {
        var builder = VHDXBuilder(size: 8 * Self.mib)
        for block in 0..<8 as Range<UInt64> {
            builder.add(block, [UInt8](repeating: 0xA0 + UInt8(block), count: Int(Self.mib)))
        }
        return try builder.open()
    }

    private func reopened(_ storage: VHDXCrashStorage, parent: DriverReader? = nil) throws -> DriverReader {
        try VHDXBuilder.open(VHDXCrashStorage(storage.content, isWritable: false), parent: parent)
    }

    private func header(_ storage: any Storage, _ slot: UInt64) throws -> [UInt8] {
        try storage.bytes(at: HostOffset(slot << 16), count: 4096)
    }

    @Test(arguments: [512, 4096] as [UInt64])
    func writtenBytesAreReadAndSurviveAClose(sectorSize: UInt64) throws {
        let storage = try dynamic(sectorSize: sectorSize)
        let disk = try VHDXMiniDisk(storage)
        var random = SeededRandom(seed: 1)
        try disk.write(3 * Self.mib - 1000, random.bytes(2000))
        try disk.write(5, random.bytes(1))
        try disk.write(disk.size - 3, random.bytes(3))
        _ = try VHDXMiniDisk.check(disk.reader, disk.model, isExact: true)
        try disk.close()
        let reader = try reopened(storage)
        _ = try VHDXMiniDisk.check(reader, disk.model, isExact: true)
        try checkFormatDriver(reader.driver)
        #expect(reader.driver.shape.remarks.isEmpty)
    }

    @Test func aSessionThatWritesNothingChangesNothing() throws {
        let storage = try dynamic()
        let before = try SHA256.of(storage)
        let disk = try VHDXMiniDisk(storage)
        let batch = try disk.driver.freeze()
        #expect(batch == nil)
        try disk.driver.close()
        #expect(try SHA256.of(storage) == before)
        #expect(storage.operations == 0)
    }

    @Test func newIdentifiersAreDurableBeforeTheFirstChange() throws {
        let storage = try dynamic()
        let old = try header(storage, 2)
        let disk = try VHDXMiniDisk(storage)
        try disk.driver.prepare()
        #expect(storage.operations == 2, "one write, one barrier")
        #expect(try header(storage, 2) == old, "the copy in force stays until the other one is durable")
        let new = try header(storage, 1)
        #expect(new[16..<32] != old[16..<32])
        #expect(new[32..<48] != old[32..<48])
        #expect(new[48..<64] == old[48..<64])
        #expect(new[64...] == old[64...])
        #expect(new[8] == 9)
    }

    @Test func closeLeavesTwoCurrentHeadersAndNoLog() throws {
        let storage = try dynamic { builder in
            builder.items.append(.init(guid: "11112222-0000-4000-8000-000000000001", bytes: [1, 2, 3], flags: 0))
        }
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [1])
        try disk.commit()
        #expect(try header(storage, 1)[48..<64] != header(storage, 2)[48..<64], "the log is in use")
        try disk.close()
        let copies = (try header(storage, 1), try header(storage, 2))
        #expect(copies.0[16...] == copies.1[16...])
        #expect(copies.0[48..<64].allSatisfy { $0 == 0 })
        let shape = try reopened(storage).driver.shape
        #expect(shape.fact("unknownMetadataItems") == .number(1))
    }

    @Test func reservedBytesOfTheHeaderSurvive() throws {
        let storage = try dynamic()
        var copy = try header(storage, 2)
        copy[4000] = 0x5A
        try storage.write(at: HostOffset(128 << 10), VHDXBuilder.sealed(Array(copy[..<4]) + [0, 0, 0, 0] + copy[8...]))
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [1])
        try disk.close()
        #expect(try header(storage, 1)[4000] == 0x5A)
        #expect(try header(storage, 2)[4000] == 0x5A)
    }

    @Test func anAllocatingWriteCostsOneHostWrite() throws {
        let storage = try dynamic(blocks: 64)
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [1])
        let before = storage.operations
        for block in 1..<8 as Range<UInt64> {
            try disk.write(block * Self.mib + 4096, [UInt8](repeating: 7, count: 65536))
        }
        #expect(storage.operations - before == 7)
    }

    @Test func growthIsTrimmedAtClose() throws {
        let storage = try dynamic()
        let size = storage.size
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [1])
        #expect(storage.size > size + Self.mib)
        try disk.close()
        #expect(storage.size == size + Self.mib)
    }

    @Test func releasedBlocksAreZeroWithoutOffsetAndTheirSpaceIsUsedAgain() throws {
        let storage = try dynamic()
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [UInt8](repeating: 1, count: Int(3 * Self.mib)))
        try disk.commit()
        let size = storage.size
        try disk.zero(ByteRange(100, to: 3 * Self.mib))
        try disk.commit()
        let table = try storage.bytes(at: HostOffset(3 * Self.mib), count: 24)
        #expect(table[8...] == [2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        try disk.write(4 * Self.mib, [UInt8](repeating: 2, count: 5))
        try disk.write(5 * Self.mib, [UInt8](repeating: 3, count: 5))
        _ = try VHDXMiniDisk.check(disk.reader, disk.model, isExact: true)
        try disk.close()
        #expect(storage.size < size)
        _ = try VHDXMiniDisk.check(try reopened(storage), disk.model, isExact: true)
    }

    @Test func freedSpaceIsNotGivenOutBeforeReclaim() throws {
        let storage = try dynamic()
        let disk = try VHDXMiniDisk(storage)
        try disk.write(0, [UInt8](repeating: 1, count: Int(Self.mib)))
        try disk.commit()
        var runs = ExtentList(for: ByteRange(0, to: 1))
        try disk.driver.inPlace(&runs)
        let old = runs[0].place
        var freed: [HostRun] = []
        _ = try disk.driver.release(ByteRange(0, to: Self.mib), as: .readsZero, freed: &freed)
        #expect(freed.count == 1)
        let new = try reservedPlace(disk.driver)
        #expect(new != nil && new != Self.offset(of: old))
    }

    /// Where a write of the first byte would go.
    private func reservedPlace(_ driver: any FormatDriver) throws -> HostOffset? {
        let plan = try driver.reserve(ByteRange(0, to: 1))
        let runs = plan.runs
        var freed: [HostRun] = []
        driver.cancel(plan, freed: &freed)
        return Self.offset(of: runs[0].place)
    }

    private static func offset(of place: Extent.Place) -> HostOffset? {
        if case .data(_, let offset) = place { return offset }
        return nil
    }

    @Test func fixedDisksKeepEveryBlock() throws {
        let storage = try dynamic(blocks: 2, isFixed: true) { builder in
            for block in 0..<2 as Range<UInt64> { builder.add(block, [9, 9]) }
        }
        let disk = try VHDXMiniDisk(storage)
        let size = storage.size
        var freed: [HostRun] = []
        try disk.driver.prepare()
        let done = try disk.driver.release(ByteRange(0, to: 2 * Self.mib), as: .readsZero, freed: &freed)
        #expect(done.isEmpty && freed.isEmpty)
        try disk.write(Self.mib - 1, [1, 2])
        let batch = try disk.driver.freeze()
        #expect(batch == nil)
        try disk.close()
        #expect(storage.size == size)
        _ = try VHDXMiniDisk.check(try reopened(storage), disk.model, isExact: true)
    }

    // MARK: - Children

    @Test func aChildTakesWrittenSectorsAndShowsTheParentBeside() throws {
        let parent = try parent()
        let storage = try child()
        let disk = try VHDXMiniDisk(storage, parent: parent)
        try disk.write(Self.mib + 700, [1, 2, 3])
        try disk.write(Self.mib + 5000, [4])
        let shown = try disk.reader.read(ByteRange(Self.mib, to: Self.mib + 8192))
        var expected = [UInt8](repeating: 0xA1, count: 8192)
        expected.replaceSubrange(700..<703, with: [1, 2, 3])
        expected[5000] = 4
        #expect(shown == expected)
        try disk.close()
        let reader = try reopened(storage, parent: parent)
        #expect(try reader.read(ByteRange(Self.mib, to: Self.mib + 8192)) == expected)
        try checkFormatDriver(reader.driver, parent: parent)
    }

    @Test func aChildHidesTheParentBehindZerosEvenWhenWrittenAgain() throws {
        let parent = try parent()
        let storage = try child()
        let disk = try VHDXMiniDisk(storage, parent: parent)
        try disk.zero(ByteRange(0, to: 2 * Self.mib))
        try disk.write(100, [7])
        var expected = [UInt8](repeating: 0, count: Int(Self.mib))
        expected[100] = 7
        #expect(try disk.reader.read(ByteRange(0, to: Self.mib)) == expected)
        try disk.close()
        #expect(try reopened(storage, parent: parent).read(ByteRange(0, to: Self.mib)) == expected)
        #expect(try storage.bytes(at: HostOffset(3 * Self.mib), count: 1)[0] & 7 == 6)
    }

    /// Bits that a block has left behind mean nothing when it becomes PARTIALLY_PRESENT again.
    @Test func staleBitsDoNotComeBack() throws {
        let parent = try parent()
        let storage = try child { $0.addBitmap(chunk: 0, [UInt8](repeating: 0xFF, count: 512)) }
        let disk = try VHDXMiniDisk(storage, parent: parent)
        try disk.write(512, [1])
        var expected = [UInt8](repeating: 0xA0, count: Int(Self.mib))
        expected[512] = 1
        #expect(try disk.reader.read(ByteRange(0, to: Self.mib)) == expected)
    }

    @Test func aBlockWhoseSectorsAreAllHereIsFullyPresent() throws {
        let parent = try parent()
        let storage = try child()
        let disk = try VHDXMiniDisk(storage, parent: parent)
        try disk.write(512, [UInt8](repeating: 1, count: Int(Self.mib) - 512))
        try disk.write(0, [2])
        try disk.close()
        #expect(try storage.bytes(at: HostOffset(3 * Self.mib), count: 1)[0] & 7 == 6)
        _ = try VHDXMiniDisk.check(try reopened(storage, parent: parent), disk.model, isExact: true)
    }

    @Test func aChildCanShowItsParentAgain() throws {
        let parent = try parent()
        let storage = try child()
        let disk = try VHDXMiniDisk(storage, parent: parent)
        try disk.write(0, [UInt8](repeating: 1, count: Int(Self.mib)))
        var freed: [HostRun] = []
        let done = try disk.driver.release(ByteRange(0, to: Self.mib), as: .showsParent, freed: &freed)
        #expect(done == ByteRange(0, to: Self.mib) && freed.count == 1)
        #expect(try disk.reader.read(ByteRange(0, to: 4)) == [0xA0, 0xA0, 0xA0, 0xA0])
    }

    // MARK: - Refusals

    @Test func imagesInWhichAWriteCouldDestroySomethingAreNotWritten() throws {
        let wrong: [(inout VHDXBuilder) -> Void] = [
            { builder in
                let place = builder.add(0, [1])
                builder.entries[1] = place | 6
            },
            { $0.entries[0] = 100 * Self.mib | 6 },
            { $0.entries[0] = Self.mib | 6 },
            { $0.entries[0] = 5 },
            { builder in
                let place = builder.add(0, [1])
                builder.entries[1] = place | 3
            },
        ]
        for change in wrong {
            let storage = try dynamic(change: change)
            #expect(failureKind { _ = try VHDXMiniDisk(storage) } == .corrupt)
            #expect(storage.operations == 0)
        }
        let none = VHDXBuilder(size: Self.mib, logLength: 0)
        #expect(failureKind { _ = try VHDXMiniDisk(try VHDXCrashStorage(copying: none.build())) } == .unsupported)
        let readOnly = VHDXCrashStorage(try dynamic().content, isWritable: false)
        #expect(failureKind { _ = try VHDXMiniDisk(readOnly) } == .readOnly)
    }

    @Test func spaceThatUndefinedAndUnmappedBlocksKeepIsGivenOutOnceTheyAreWritten() throws {
        let storage = try dynamic { builder in
            builder.add(0, state: 3, [1])
            builder.add(1, state: 1, [1])
            builder.entries[2] = 2
        }
        let disk = try VHDXMiniDisk(storage)
        for block in 0..<3 as Range<UInt64> { try disk.write(block * Self.mib + 9, [5]) }
        try disk.close()
        _ = try VHDXMiniDisk.check(try reopened(storage), disk.model, isExact: true)
        #expect(storage.size == 9 * Self.mib)
    }
}
