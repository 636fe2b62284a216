import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Power cuts at every kind of moment, on the driver alone.
@Suite struct VHDXCrashTests {
    private static let mib: UInt64 = 1 << 20

    enum Kind: CaseIterable, Sendable {
        case dynamic, largeBlocks, largeSectors, fixed, child, largeBlockChild
    }

    struct Setup {
        var content: VHDXCrashStorage.Content
        var parent: DriverReader?
    }

    static func setup(_ kind: Kind, logLength: UInt64 = mib) throws -> Setup {
        let blockSize = kind == .largeBlocks || kind == .largeBlockChild ? 32 * mib : mib
        let sectorSize: UInt64 = kind == .largeSectors ? 4096 : 512
        let size = kind == .largeBlocks || kind == .largeBlockChild ? 70 * mib : 7 * mib + 4096
        var parent: DriverReader?
        var locator: [(String, String)]?
        if kind == .child || kind == .largeBlockChild {
            var base = VHDXBuilder(size: size, blockSize: blockSize)
            base.add(0, [UInt8](repeating: 0xAA, count: Int(mib)))
            base.add(1, [UInt8](repeating: 0xBB, count: Int(mib)))
            parent = try base.open()
            locator = [("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", "parent.vhdx")]
        }
        var builder = VHDXBuilder(
            size: size, blockSize: blockSize, sectorSize: sectorSize, isFixed: kind == .fixed, locator: locator,
            logLength: logLength)
        if kind == .fixed {
            for block in 0..<8 as Range<UInt64> { builder.add(block, [UInt8](repeating: 0, count: 1)) }
        }
        return Setup(content: try VHDXCrashStorage(copying: builder.build()).content, parent: parent)
    }

    /// One random change or commit.
    static func step(_ disk: VHDXMiniDisk, _ random: inout SeededRandom) throws {
        let blockSize = disk.driver.shape.allocationUnit
        let start = random.next() % disk.size
        switch random.next() % 10 {
        case 0...4:
            let longest: UInt64 = random.next() % 8 == 0 ? 400_000 : 9000
            let count = min(disk.size - start, random.next() % longest + 1)
            try disk.write(start, random.bytes(Int(count)))
        case 5, 6:
            let block = start / blockSize * blockSize
            let length = blockSize > mib ? blockSize : (random.next() % 2 + 1) * blockSize
            if blockSize == mib {
                try disk.zero(ByteRange(block, to: min(disk.size, block + length + random.next() % 2 * 700)))
            } else {
                try disk.zero(ByteRange(start, to: min(disk.size, start + 5000)))
            }
        case 7: try disk.driver.rest()
        default: try disk.commit()
        }
    }

    /// Two sessions, each ended by a power cut at a random operation, with several states looked at after each.
    @Test(arguments: Kind.allCases, 0..<2 as Range<UInt64>)
    func everyStateOpensAndHoldsWhatItMay(kind: Kind, seed: UInt64) throws {
        var random = SeededRandom(seed: seed &* 977 &+ 5)
        let setup = try Self.setup(kind)
        var content = setup.content
        var model: [UInt64: [[UInt8]]] = [:]
        for _ in 0..<2 {
            let storage = VHDXCrashStorage(content)
            let disk = try VHDXMiniDisk(storage, parent: setup.parent, model: model)
            storage.fail(after: Int(random.next() % 150))
            var failure: ImageError?
            while failure == nil {
                do { try Self.step(disk, &random) } catch let error as ImageError { failure = error }
            }
            try #require(failure?.kind == .io)
            for chance in [0, 40, 128, 220, 256] as [UInt64] {
                content = storage.afterPowerCut(&random, chance: chance)
                let before = VHDXCrashStorage(content, isWritable: false)
                _ = try VHDXMiniDisk.check(try VHDXBuilder.open(before, parent: setup.parent), disk.model)
                let after = VHDXCrashStorage(content)
                let again = try VHDXMiniDisk(after, parent: setup.parent)
                model = try VHDXMiniDisk.check(again.reader, disk.model)
                // Recovery itself may be cut off.
                content = after.afterPowerCut(&random, chance: 128)
            }
        }
    }

    /// A log of 1 MiB takes hundreds of batches: sequences follow each other around the ring.
    @Test(arguments: 0..<1 as Range<UInt64>)
    func manyBatchesGoAroundTheRing(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let setup = try Self.setup(.child)
        let storage = VHDXCrashStorage(setup.content)
        let disk = try VHDXMiniDisk(storage, parent: setup.parent)
        for round in 0..<150 {
            try disk.write(random.next() % (disk.size - 600), random.bytes(600))
            try disk.commit()
            guard round % 9 == 0 else { continue }
            try disk.write(random.next() % (disk.size - 600), random.bytes(600))
            let content = storage.afterPowerCut(&random, chance: 128)
            let cut = VHDXCrashStorage(content, isWritable: false)
            _ = try VHDXMiniDisk.check(try VHDXBuilder.open(cut, parent: setup.parent), disk.model)
        }
        let flushes = storage.flushes
        try disk.write(0, [1])
        try disk.commit()
        #expect(storage.flushes - flushes == 2, "a commit costs two barriers, wherever the ring stands")
    }

    /// A batch of more pages than the log holds, cut off at every one of its operations, and tried again from its first
    /// phase after a full host.
    @Test(arguments: [false, true])
    func aBatchLargerThanTheLog(isChild: Bool) throws {
        let mib = Self.mib
        // 512 blocks share a page of the table, and 8 chunks of sector bitmaps lie between.
        let size: UInt64 = isChild ? 40 << 30 : 300 << 30
        let storage = try Self.largeImage(size: size, isChild: isChild)
        let disk = try VHDXMiniDisk(storage)
        let step: UInt64 = isChild ? 128 * mib : 512 * mib
        for offset in stride(from: 0, to: size, by: Int(step)) { try disk.write(offset, [1, 2, 3]) }
        let start = storage.operations
        let before = storage.content
        try disk.commit()
        let batch = try #require(disk.batches.last)
        #expect(batch.phases.count > 6)
        let operations = storage.operations - start
        var random = SeededRandom(seed: 3)
        for count in stride(from: 0, to: operations, by: 7) {
            let cut = VHDXCrashStorage(before)
            cut.fail(after: count)
            #expect(failureKind { try Self.write(batch, to: cut) } == .io)
            let content = cut.afterPowerCut(&random, chance: 128)
            let reader = try VHDXBuilder.open(VHDXCrashStorage(content, isWritable: false))
            _ = try VHDXMiniDisk.check(reader, disk.allowed)
            // The same batch once more, cut off again.
            cut.fail(after: .max)
            cut.fail(after: Int(random.next() % UInt64(operations)))
            _ = failureKind { try Self.write(batch, to: cut) }
            let second = cut.afterPowerCut(&random, chance: 128)
            let after = try VHDXMiniDisk(VHDXCrashStorage(second))
            _ = try VHDXMiniDisk.check(after.reader, disk.allowed)
        }
    }

    private static func write(_ batch: Batch, to storage: VHDXCrashStorage) throws {
        for phase in batch.phases {
            for page in phase.pages.shuffled() { try storage.write(at: page.offset, page.bytes) }
            if phase.hasBarrier { try storage.flush() }
        }
    }

    private static func largeImage(size: UInt64, isChild: Bool) throws -> VHDXCrashStorage {
        let locator = [("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", "parent.vhdx")]
        let builder = VHDXBuilder(size: size, locator: isChild ? locator : nil)
        return try VHDXCrashStorage(copying: builder.build())
    }

    /// The host is full at one operation, and has room again afterwards.
    @Test(arguments: [Kind.dynamic, .child], 0..<2 as Range<UInt64>)
    func aFullHostLosesNothing(kind: Kind, seed: UInt64) throws {
        var random = SeededRandom(seed: seed &+ 100)
        let setup = try Self.setup(kind)
        let storage = VHDXCrashStorage(setup.content)
        let disk = try VHDXMiniDisk(storage, parent: setup.parent)
        for _ in 0..<40 {
            storage.fail(after: Int(random.next() % 12), with: .noSpace, once: true)
            do { try Self.step(disk, &random) } catch let error as ImageError {
                try #require(error.kind == .noSpace)
                continue
            }
        }
        storage.fail(after: .max)
        let content = storage.afterPowerCut(&random, chance: 128)
        let cut = VHDXCrashStorage(content, isWritable: false)
        _ = try VHDXMiniDisk.check(try VHDXBuilder.open(cut, parent: setup.parent), disk.model)
        try disk.close()
        let closed = VHDXCrashStorage(storage.content)
        _ = try VHDXMiniDisk.check(try VHDXMiniDisk(closed, parent: setup.parent).reader, disk.model)
    }
}
