import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Power cuts at every kind of moment, on the driver alone.
@Suite struct VHDXCrashTests {
    private static let mib: UInt64 = 1 << 20

    enum Kind: Sendable {
        case dynamic, largeBlocks, child
    }

    struct Setup {
        var content: VHDXCrashStorage.Content
        var parent: DriverReader?
    }

    static func setup(_ kind: Kind) throws -> Setup {
        let blockSize = kind == .largeBlocks ? 32 * mib : mib
        let size = kind == .largeBlocks ? 70 * mib : 7 * mib + 4096
        var parent: DriverReader?
        var locator: [(String, String)]?
        if kind == .child {
            var base = VHDXBuilder(size: size, blockSize: blockSize)
            base.add(0, [UInt8](repeating: 0xAA, count: Int(mib)))
            base.add(1, [UInt8](repeating: 0xBB, count: Int(mib)))
            parent = try base.open()
            locator = [("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", "parent.vhdx")]
        }
        let builder = VHDXBuilder(size: size, blockSize: blockSize, locator: locator, logLength: mib)
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
}
