import Bytes
import Disk
import TestSupport
import Testing

/// Images made by QEMU against what QEMU reads from them. Its map says nothing useful about this format.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct VHDXOracleTests {
    @Test(arguments: [1, 2, 8, 32, 256] as [UInt64], ["on", "off"])
    func dynamicDisksOfEveryBlockSize(mib: UInt64, zeros: String) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhdx")
        let size = (3 * mib << 20) / 2 + 7 * 512
        try Oracle.create(path, "vhdx", ["block_size=\(mib)M", "block_state_zero=\(zeros)"], size: size)
        // Writes stay near the beginning and the end, so that the comparison does not read long stretches of zeros.
        try Oracle.scribble(path, "vhdx", size: min(size, 6 << 20), unit: 1 << 20, seed: mib)
        try Oracle.run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 77 \(size - 5 * 512) \(5 * 512)", path])
        try Oracle.checkContent(path, "vhdx", in: directory)
    }

    @Test(arguments: [1, 16] as [UInt64])
    func fixedDisks(mib: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhdx")
        try Oracle.create(path, "vhdx", ["subformat=fixed", "block_size=\(mib)M", "log_size=2M"], size: Oracle.oddSize)
        try Oracle.scribble(path, "vhdx", size: Oracle.oddSize, unit: mib << 20, seed: 8)
        try Oracle.checkContent(path, "vhdx", in: directory)
    }

    /// Has QEMU write at the edges of the chunks of the 9 GiB disk at `path`, and reads that back.
    @discardableResult
    static func expectWhatQEMUWrites(around path: String) throws -> Disk {
        let places: [UInt64] = [0, (4 << 30) - 4096, 4 << 30, (8 << 30) - 512, 8 << 30, (9 << 30) - 512]
        try Oracle.run(
            "qemu-io",
            ["-f", "vhdx"] + places.enumerated().flatMap { ["-c", "write -q -P \($0.offset + 1) \($0.element) 512"] }
                + [path])
        let disk = try Disk.open(path: path, options: DiskOptions())
        for (index, place) in places.enumerated() {
            var bytes = [UInt8](repeating: 0xA5, count: 512)
            try bytes.withUnsafeMutableBytes { try disk.read(.init(place, to: place + 512), into: $0) }
            #expect(bytes == [UInt8](repeating: UInt8(index + 1), count: 512), "at \(place)")
        }
        return disk
    }

    /// The entries of sector bitmaps lie between those of blocks from 4 GiB on.
    @Test func blocksBeyondTheFirstChunk() throws {
        let directory = try TemporaryDirectory("oracle")
        let path = directory.file("image.vhdx")
        try Oracle.create(path, "vhdx", ["block_size=1M"], size: 9 << 30)
        let disk = try Self.expectWhatQEMUWrites(around: path)
        var data: UInt64 = 0
        var position: UInt64 = 0
        while let start = try disk.nextData(from: position) {
            position = try disk.nextHole(from: start)
            data += position - start
        }
        #expect(data == 6 << 20)
    }
}
