import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What platter writes against what QEMU makes of it: clean images, and images that lost power.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct VHDXWriteOracleTests {
    private static let mib: UInt64 = 1 << 20

    private func save(_ content: VHDXCrashStorage.Content, to path: String) throws {
        let file = VHDXCrashStorage(content, isWritable: false)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(file.size))
        bytes = try file.bytes(at: HostOffset(0), count: Int(file.size))
        try HostFiles.write(bytes, to: path)
    }

    private func convert(_ path: String, _ raw: String) throws -> FileStorage {
        try Oracle.run("qemu-img", ["convert", "-f", "vhdx", "-O", "raw", path, raw])
        return try FileStorage(path: raw)
    }

    private func compare(_ disk: FileStorage, _ reader: DriverReader, except: ByteRange = ByteRange(0, to: 0)) throws {
        try #require(disk.size == reader.size)
        var position: UInt64 = 0
        while position < reader.size {
            let end = min(reader.size, position + Self.mib)
            var ours = try reader.read(ByteRange(position, to: end))
            let theirs = try disk.bytes(at: HostOffset(position), count: Int(end - position))
            if except.lower >= position, except.upper <= end, !except.isEmpty {
                let range = Int(except.lower - position)..<Int(except.upper - position)
                ours.replaceSubrange(range, with: theirs[range])
            }
            try #require(firstDifference(ours, theirs) == nil, "in the MiB at \(position)")
            position = end
        }
    }

    @Test(arguments: [1, 2, 32] as [UInt64], 0..<3 as Range<UInt64>)
    func cleanImagesAreWhatQEMUReads(block: UInt64, seed: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhdx")
        let size = (seed == 2 ? 40 : 9) << 20 | 7 << 9 as UInt64
        try Oracle.create(
            path, "vhdx", ["block_size=\(block)M"] + (seed == 1 ? ["block_state_zero=off"] : []), size: size)
        try Oracle.run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 3 1234432 70000", path])
        var random = SeededRandom(seed: seed)
        let storage = try VHDXCrashStorage(copying: try FileStorage(path: path))
        for _ in 0..<2 {
            let disk = try VHDXMiniDisk(storage)
            for _ in 0..<25 { try VHDXCrashTests.step(disk, &random) }
            try disk.close()
            _ = try VHDXMiniDisk.check(disk.reader, disk.model, isExact: true)
        }
        try save(storage.content, to: path)
        try Oracle.run("qemu-img", ["check", "-f", "vhdx", path])
        let reader = try VHDXBuilder.open(VHDXCrashStorage(storage.content, isWritable: false))
        try compare(try convert(path, directory.file("raw")), reader)
    }

    /// QEMU replays what the power cut has left, and writes on.
    @Test(arguments: 0..<10 as Range<UInt64>)
    func dirtyImagesAreReplayedByQEMU(seed: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhdx")
        var random = SeededRandom(seed: seed &+ 40)
        let setup = try VHDXCrashTests.setup(seed % 2 == 0 ? .dynamic : .largeBlocks)
        let storage = VHDXCrashStorage(setup.content)
        let disk = try VHDXMiniDisk(storage)
        storage.fail(after: 60 + Int(random.next() % 150))
        while failureKind({ try VHDXCrashTests.step(disk, &random) }) == nil {}
        for chance in [0, 128, 256] as [UInt64] {
            let content = storage.afterPowerCut(&random, chance: chance)
            try save(content, to: path)
            try Oracle.run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 9 512 512", path])
            try Oracle.run("qemu-img", ["check", "-f", "vhdx", path])
            let reader = try VHDXBuilder.open(VHDXCrashStorage(content, isWritable: false))
            _ = try VHDXMiniDisk.check(reader, disk.model)
            try compare(try convert(path, directory.file("raw")), reader, except: ByteRange(512, to: 1024))
        }
    }
}
