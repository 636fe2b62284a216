import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Images that platter makes and writes through its disk, as QEMU reads them: after the end of a session, and after the
/// process was killed in one.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct DiskOracleTests {
    private static let megabyte: UInt64 = 1 << 20

    /// Runs a random session on a new image, and returns the file and what the disk must read as.
    private func session(
        _ format: any ImageFormat.Type, size: UInt64, _ options: [String: String], seed: UInt64, finishes: Bool
    ) throws -> (file: SparseBytes, content: [UInt8]) {
        let fixture = try DiskFixture.created(format, size: size, options: options)
        let machine = PowerCutMachine(fixture.files.map(\.content))
        let disk = try fixture.open(machine.storages, true)
        var workload = DiskWorkload(ModelDisk(try disk.contents()), seed: seed)
        try workload.run(30, on: disk, machine, largest: 3 << 20)
        try workload.flush(disk, machine)
        if finishes { try workload.finish(disk, machine) }
        return (machine.contents[0], workload.model.latest.bytes)
    }

    /// What QEMU takes for the content of the image at `path`.
    private func content(_ path: String, _ format: String, in directory: TemporaryDirectory) throws -> [UInt8] {
        let raw = directory.file("raw")
        try Oracle.run("qemu-img", ["convert", "-f", format, "-O", "raw", path, raw])
        return try HostFiles.read(raw)
    }

    /// Sizes that no geometry can say are among them: QEMU must not round any.
    @Test(arguments: ["dynamic", "fixed"], [512, 1024, 300_544, 5 << 20 | 7 << 9, 8 << 20] as [UInt64])
    func qemuReadsEveryVHDInItsSize(kind: String, size: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        for finishes in [true, false] {
            let (file, expected) = try session(
                VHD.self, size: size, ["subformat": kind], seed: size, finishes: finishes)
            let path = try directory.write(file.bytes, to: "image.vhd")
            let info = try JSON(parsing: try Oracle.run("qemu-img", ["info", "--output=json", "-f", "vpc", path]))
            #expect(info["virtual-size"]?.uint64 == size)
            let found = try content(path, "vpc", in: directory)
            #expect(found.count == expected.count)
            #expect(firstDifference(found, expected) == nil, "finished: \(finishes)")
            try Oracle.run("qemu-img", ["compare", "-q", "-f", "vpc", "-F", "raw", path, directory.file("raw")])
        }
    }

    @Test(arguments: [
        ["block_size": "1M"], ["block_size": "4M"], ["block_size": "64M"], ["subformat": "fixed", "block_size": "2M"],
    ])
    func qemuReadsAFinishedVHDX(options: [String: String]) throws {
        let directory = try TemporaryDirectory("oracle")
        let (file, expected) = try session(
            VHDX.self, size: 9 << 20 | 7 << 9, options, seed: 11, finishes: true)
        let path = try directory.write(file.bytes, to: "image.vhdx")
        try Oracle.run("qemu-img", ["check", "-f", "vhdx", path])
        #expect(firstDifference(try content(path, "vhdx", in: directory), expected) == nil)
    }

    /// The log is in use then. QEMU replays it for a writer, and the disk is what it was but for QEMU's own write.
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func qemuReplaysTheLogOfAKilledSession(seed: UInt64) throws {
        let directory = try TemporaryDirectory("oracle")
        let (file, before) = try session(
            VHDX.self, size: 9 << 20 | 7 << 9, ["block_size": seed % 2 == 0 ? "1M" : "8M"], seed: seed,
            finishes: false)
        let path = try directory.write(file.bytes, to: "image.vhdx")
        try Oracle.run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 9 512 512", path])
        try Oracle.run("qemu-img", ["check", "-f", "vhdx", path])
        var expected = before
        expected.replaceSubrange(512..<1024, with: [UInt8](repeating: 9, count: 512))
        #expect(firstDifference(try content(path, "vhdx", in: directory), expected) == nil)
    }
}
