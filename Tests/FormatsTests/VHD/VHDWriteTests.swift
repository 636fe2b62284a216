import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Writing by one thread, looked at in the file.
struct VHDWriteTests {
    static let sizes: [(size: UInt64, block: String)] = [
        (3 << 20, "512K"), (5 << 20 | 7 << 9, "2M"), (200 << 10, "4K"), ((1 << 20) + 512, "64K"),
    ]

    private func base(_ size: UInt64) throws -> (VHDScratch, CreateRequest.Parent, any FormatDriver) {
        let file = try Asking.create(size: size, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        var random = SeededRandom(seed: 7)
        for _ in 0..<6 {
            let offset = UInt64.random(in: 0..<(size - 40_000), using: &random)
            try writer.write(random.bytes(40_000), at: offset)
        }
        try writer.finish()
        let driver = try Asking.open(file.bytes)
        return (
            file,
            CreateRequest.Parent(
                absolutePath: "/images/base.vhd", recordedPath: "base.vhd", shape: driver.shape, modified: 1_000_000_000
            ),
            driver
        )
    }

    /// Writes, zeroes and commits at random.
    private func scribble(_ writer: inout VHDWriter, seed: UInt64, rounds: Int) throws {
        var random = SeededRandom(seed: seed)
        let size = UInt64(writer.model.count)
        for round in 0..<rounds {
            let start = UInt64.random(in: 0..<size, using: &random)
            let grain: UInt64 = [1, 512, 4096][Int(random.next() % 3)]
            let lower = start / grain * grain
            let length = min(
                size - lower, UInt64.random(in: 1...[700, 9000, 300_000][Int(random.next() % 3)], using: &random))
            switch random.next() % 8 {
            case 0, 1: try writer.zero(ByteRange(lower, to: lower + length))
            case 2: try writer.flush()
            default: try writer.write([UInt8](repeating: UInt8(round % 255 + 1), count: Int(length)), at: lower)
            }
        }
    }

    @Test(arguments: sizes, [true, false]) func dynamicImageKeepsWhatIsWritten(
        kind: (size: UInt64, block: String), canPunch: Bool
    ) throws {
        let file = VHDScratch(try Asking.create(size: kind.size, ["block_size": kind.block]).bytes, canPunch: canPunch)
        for seed in 1...3 as ClosedRange<UInt64> {
            var writer = try VHDWriter(file)
            try scribble(&writer, seed: seed, rounds: 40)
            try writer.verify()
            try writer.finish()
            try writer.verify(fresh: true)
            #expect(try Asking.check(file.bytes).corruptions == 0)
        }
    }

    @Test(arguments: sizes) func childKeepsWhatIsWrittenAndTheParentIsUntouched(
        kind: (size: UInt64, block: String)
    ) throws {
        let (parentFile, parent, driver) = try base(kind.size)
        let before = parentFile.bytes
        let file = try Asking.create(size: kind.size, ["block_size": kind.block], parent: parent)
        for seed in 1...3 as ClosedRange<UInt64> {
            var writer = try VHDWriter(file, below: [driver])
            try scribble(&writer, seed: seed, rounds: 40)
            try writer.verify()
            try writer.finish()
            try writer.verify(fresh: true)
            #expect(try Asking.faults(file.bytes).isEmpty)
        }
        #expect(firstDifference(parentFile.bytes, before) == nil)
    }

    @Test func fixedImageNeverChangesItsSize() throws {
        let file = try Asking.create(size: 100_352, ["subformat": "fixed"])
        let footer = file.bytes.suffix(512)
        var writer = try VHDWriter(file)
        try scribble(&writer, seed: 5, rounds: 40)
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(file.bytes.count == 100_352 + 512)
        #expect(file.bytes.suffix(512) == footer)
        #expect(firstDifference(Array(file.bytes.prefix(100_352)), writer.model) == nil)
    }

    // MARK: - Layout

    @Test(arguments: ["4K", "512K", "2M", "32M"]) func dataBeginsOnAPageAndTheFileEndsRightBehindTheLastBlock(
        block: String
    ) throws {
        let file = try Asking.create(size: 96 << 20, ["block_size": block])
        var writer = try VHDWriter(file)
        for index in 0..<3 { try writer.write([9], at: UInt64(index) * (32 << 20) + 5) }
        for run in try Asking.runs(writer.driver, ByteRange(0, to: 96 << 20)) {
            if case .data(_, let offset) = run.place { #expect(offset.rawValue % 4096 == 0) }
        }
        let longest = file.size
        try writer.finish()
        #expect(file.size <= longest)
        #expect(try Asking.faults(file.bytes).isEmpty)
        #expect(
            try Asking.check(file.bytes).allocatedBytes == UInt64(
                3 * (["4K": 4, "512K": 512, "2M": 2048][block] ?? 32768)) << 10)
    }

    /// The old footer's place is written only after the new one's barrier.
    @Test func footerIsDurableAtTheNewEndBeforeItsOldPlaceIsUsed() throws {
        let file = try Asking.create(size: 16 << 20, ["block_size": "512K"])
        var writer = try VHDWriter(file)
        let old = file.size - 512
        file.forgetEvents()
        try writer.write([1], at: 0)
        try writer.flush()
        var isDurable = false
        for event in file.events {
            switch event {
            case .write(let offset, let bytes):
                if bytes.starts(with: Array("conectix".utf8)) { #expect(offset > old) }
                if offset < old + 512, offset + UInt64(bytes.count) > old { #expect(isDurable) }
            case .flush: isDurable = true
            default: break
            }
        }
        #expect(isDurable)
    }

    @Test func oneBarrierIsEnoughForManyBlocks() throws {
        let file = try Asking.create(size: 64 << 20, ["block_size": "512K"])
        var writer = try VHDWriter(file)
        file.forgetEvents()
        for block in 0..<64 { try writer.write([1], at: UInt64(block) << 19) }
        #expect(file.events.count { if case .flush = $0 { true } else { false } } <= 3)
        try writer.finish()
    }

    @Test func copyOfTheFooterStaysAsItIs() throws {
        let file = try Asking.create(size: 8 << 20, ["block_size": "512K"])
        let head = file.bytes.prefix(1536)
        var writer = try VHDWriter(file)
        try scribble(&writer, seed: 9, rounds: 30)
        try writer.finish()
        #expect(file.bytes.prefix(1536) == head)
        #expect(file.bytes.suffix(512) == head.prefix(512))
    }

    // MARK: - Space

    @Test func freedBlocksAreUsedAgain() throws {
        let file = try Asking.create(size: 8 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        try writer.write([UInt8](repeating: 1, count: 2 << 20), at: 0)
        try writer.flush()
        try writer.zero(ByteRange(64 << 10, to: 1 << 20))
        try writer.flush()
        #expect(try Asking.words(writer.driver, ByteRange(64 << 10, to: 1 << 20)) == ["hole \(15 << 16)"])
        let end = file.size
        try writer.write([UInt8](repeating: 2, count: 15 << 16), at: 4 << 20)
        #expect(file.size == end)
        try writer.verify()
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(try Asking.faults(file.bytes).isEmpty)
    }

    @Test func blocksThatAnEarlierSessionFreedAreUsedAgain() throws {
        let file = try Asking.create(size: 8 << 20, ["block_size": "64K"])
        var first = try VHDWriter(file)
        try first.write([UInt8](repeating: 1, count: 2 << 20), at: 0)
        try first.zero(ByteRange(64 << 10, to: 1 << 20))
        try first.finish()
        #expect(try Asking.check(file.bytes).leaks == 15)
        let end = file.size
        var second = try VHDWriter(file)
        try second.write([7], at: 5 << 20 | 100)
        try second.finish()
        #expect(file.size == end)
        #expect(try Asking.check(file.bytes).leaks == 14)
        try second.verify(fresh: true)
    }

    @Test func freedSpaceIsNotGivenOutBeforeItComesBack() throws {
        let file = try Asking.create(size: 1 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        try writer.write([UInt8](repeating: 1, count: 64 << 10), at: 0)
        try writer.flush()
        let before = try Asking.words(writer.driver, ByteRange(0, to: 64 << 10))
        try writer.zero(ByteRange(0, to: 64 << 10))
        try writer.write([UInt8](repeating: 2, count: 64 << 10), at: 0)
        #expect(try Asking.words(writer.driver, ByteRange(0, to: 64 << 10)) != before)
        try writer.finish()
        try writer.verify(fresh: true)
    }

    @Test func childGivesNoBlockUpForZeros() throws {
        let (_, parent, driver) = try base(1 << 20)
        var writer = try VHDWriter(
            try Asking.create(size: 1 << 20, ["block_size": "64K"], parent: parent), below: [driver])
        try writer.zero(ByteRange(0, to: 1 << 20))
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(writer.model.allSatisfy { $0 == 0 })
    }

    @Test func childShowsItsParentAgainWhereBlocksAreReleasedForThat() throws {
        let (_, parent, driver) = try base(1 << 20)
        let file = try Asking.create(size: 1 << 20, ["block_size": "64K"], parent: parent)
        var writer = try VHDWriter(file, below: [driver])
        try writer.write([UInt8](repeating: 3, count: 256 << 10), at: 0)
        var freed: [HostRun] = []
        let done = try writer.driver.release(ByteRange(1000, to: 256 << 10), as: .showsParent, freed: &freed)
        #expect(done == ByteRange(64 << 10, to: 256 << 10))
        #expect(freed.count == 3)
        #expect(try Asking.words(writer.driver, done) == ["hole \(192 << 10)"])
    }

    // MARK: - The host is full

    @Test func growthThatFailsIsTakenBack() throws {
        let file = try Asking.create(size: 8 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        try writer.write([1], at: 0)
        try writer.finish()
        let before = file.bytes
        file.limit(file.size + 1000)
        var second = try VHDWriter(file)
        let error = #expect(throws: ImageError.self) { try second.write([2], at: 1 << 20) }
        #expect(error?.kind == .noSpace)
        #expect(firstDifference(file.bytes, before) == nil)
        try second.write([3], at: 10)
        file.limit(.max)
        try second.write([4], at: 1 << 20)
        try second.finish()
        try second.verify(fresh: true)
        #expect(try Asking.faults(file.bytes).isEmpty)
    }

    @Test func aSingleBlockIsTriedWhereALongStepDoesNotFit() throws {
        let file = try Asking.create(size: 64 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        file.limit(file.size + (80 << 10))
        try writer.write([2], at: 1 << 20)
        try writer.finish()
        try writer.verify(fresh: true)
    }

    @Test func halfAFooterOfAFailedGrowthIsNotFoundInNewBlocks() throws {
        let file = try Asking.create(size: 1 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        file.fail(after: 0, ImageError(.io, "the host failed"))
        #expect(throws: ImageError.self) { try writer.write([1], at: 0) }
        for block in 0..<16 { try writer.write([1], at: UInt64(block) << 16) }
        try writer.finish()
        try writer.verify(fresh: true)
    }

    @Test func nothingIsWrittenAfterABarrierOfGrowthFailed() throws {
        let file = try Asking.create(size: 1 << 20, ["block_size": "64K"])
        var writer = try VHDWriter(file)
        file.fail(after: 1, ImageError(.io, "the host failed"))
        #expect(throws: ImageError.self) { try writer.write([1], at: 0) }
        #expect(throws: ImageError.self) { try writer.write([1], at: 0) }
        #expect(throws: ImageError.self) { try writer.driver.freeze() }
        #expect(throws: ImageError.self) { try writer.driver.close() }
    }

    @Test func fileOfTwoTebibytesIsTheLargest() throws {
        let storage = SparseMemoryStorage(size: 0)
        var builder = VHDBuilder(size: 4 << 20)
        builder.blockSize = 2 << 20
        let head = builder.bytes().dropLast(512)
        storage.patch(Array(head), at: 0)
        storage.patch(builder.footer(), at: (1 << 32) * 512 - 1024)
        let table = VHDBuilder.big(UInt32((1 << 32) - 2 - 4097))
        storage.patch(table, at: UInt64(VHDBuilder.tableOffset))
        let request = OpenRequest(storage: storage, companions: NoCompanions(), isWritable: true)
        let driver = try VHD.open(request)
        try driver.prepare()
        let error = #expect(throws: ImageError.self) { _ = try driver.reserve(ByteRange(2 << 20, to: 3 << 20)).token }
        #expect(error?.kind == .noSpace)
    }
}
