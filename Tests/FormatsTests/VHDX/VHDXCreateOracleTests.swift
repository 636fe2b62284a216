import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// New images as QEMU sees them: every combination of options that makes a difference in the file.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct VHDXCreateOracleTests {
    struct Choice: CustomTestStringConvertible, Sendable {
        var options: [String: String]
        var testDescription: String { options.sorted { $0.key < $1.key }.map { "\($0)=\($1)" }.joined(separator: ",") }
    }

    private static let choices: [Choice] = {
        var choices: [Choice] = []
        for kind in [["subformat": "dynamic"], ["subformat": "fixed"], ["block_state_zero": "on"]] {
            for block in ["", "1M", "8M", "256M"] where block != "256M" || kind["subformat"] == "dynamic" {
                for physical in ["512", "4096"] {
                    var options = kind
                    if !block.isEmpty { options["block_size"] = block }
                    options["physical_sector_size"] = physical
                    if physical == "512" { options["log_size"] = "1M" }
                    choices.append(Choice(options: options))
                }
            }
        }
        return choices
    }()

    /// Opens it, checks it, reads zeros, writes, and reads that back with both programs.
    @Test(arguments: choices)
    func qemuReadsAndWritesNewImages(_ choice: Choice) throws {
        let directory = try TemporaryDirectory("create")
        let path = directory.file("new.vhdx")
        let size: UInt64 = 21 << 20 | 7 << 9
        try VHDXCreateTests.create(path, size: size, choice.options)
        let info = try JSON(parsing: try Oracle.run("qemu-img", ["info", "--output=json", "-f", "vhdx", path]))
        #expect(info["virtual-size"]?.uint64 == size)
        #expect(info["format"]?.string == "vhdx")
        try Oracle.run("qemu-img", ["check", "-q", "-f", "vhdx", path])
        try HostFiles.truncate(directory.file("zeros.raw"), to: size)
        try Oracle.run(
            "qemu-img", ["compare", "-q", "-f", "vhdx", "-F", "raw", path, directory.file("zeros.raw")])
        try Oracle.scribble(path, "vhdx", size: size, unit: 1 << 20, seed: 5)
        try Oracle.checkContent(path, "vhdx", in: directory)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "vhdx", path])
        let report = try VHDXCheckTests.check(try FileStorage(path: path))
        #expect(report.corruptions == 0, "\(report.findings)")
    }

    /// Over the end of the first chunk of blocks, where a sector bitmap's entry lies between.
    @Test(arguments: ["dynamic", "fixed"])
    func qemuFindsBlocksBeyondTheFirstChunk(kind: String) throws {
        let directory = try TemporaryDirectory("create")
        let path = directory.file("new.vhdx")
        try VHDXCreateTests.create(path, size: 9 << 30, ["subformat": kind, "block_size": "1M"])
        try VHDXOracleTests.expectWhatQEMUWrites(around: path)
    }

    @Test func qemuOpensTheLargestDisk() throws {
        let directory = try TemporaryDirectory("create")
        let path = directory.file("new.vhdx")
        try VHDXCreateTests.create(path, size: 64 << 40)
        try Oracle.run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 7 \((64 << 40) - 512) 512", path])
        let disk = try Disk.open(path: path, options: DiskOptions())
        var bytes = [UInt8](repeating: 0xA5, count: 512)
        try bytes.withUnsafeMutableBytes { try disk.read(.init((64 << 40) - 512, to: 64 << 40), into: $0) }
        #expect(bytes == [UInt8](repeating: 7, count: 512))
    }

    /// QEMU up to 7.2 reads no logical sectors but those of 512 bytes; what it then says is about that.
    @Test func qemuRefusesLargeSectorsForWhatTheyAre() throws {
        let directory = try TemporaryDirectory("create")
        let path = directory.file("new.vhdx")
        try VHDXCreateTests.create(path, size: 1 << 30, ["logical_sector_size": "4096"])
        let result = try run("qemu-img", "info", "-f", "vhdx", path)
        if !result.succeeded { #expect(result.errors.contains("ector size") || result.errors.contains("supported")) }
        let driver = try VHDXCreateTests.open(try FileStorage(path: path))
        #expect(driver.shape.logicalSectorSize == 4096)
        #expect(driver.shape.physicalSectorSize == 4096)
    }

    @Test(.enabled(if: Tool.has("vhdiinfo"), "vhdiinfo is not installed"))
    func libvhdiReadsChildrenAndLargeSectors() throws {
        let directory = try TemporaryDirectory("create")
        let base = directory.file("base.vhdx")
        try VHDXCreateTests.create(base, size: 1 << 30)
        try VHDXCreateTests.create(directory.file("child.vhdx"), size: 0, parent: try VHDXCreateTests.parent(base))
        let child = try runSuccessfully("vhdiinfo", directory.file("child.vhdx"))
        #expect(child.contains("Differential"))
        #expect(child.contains("base.vhdx"))
        let identity = try #require(
            try VHDXCreateTests.open(try FileStorage(path: base)).shape.identity?.microsoftText)
        #expect(child.contains(identity))
        try VHDXCreateTests.create(directory.file("large.vhdx"), size: 1 << 30, ["logical_sector_size": "4096"])
        let large = try runSuccessfully("vhdiinfo", directory.file("large.vhdx"))
        #expect(large.contains("1.0 GiB"))
    }
}
