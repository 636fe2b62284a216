import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Hosts that fail under a writer, and images that want to be written where their metadata is.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2FaultTests {
    @Test(arguments: [
        ["cluster_size": "4k"], ["compat": "0.10", "cluster_size": "512"],
        ["extended_l2": "on", "cluster_size": "16k"],
        ["lazy_refcounts": "on", "cluster_size": "8k", "refcount_bits": "1"],
    ])
    func everyOperationFailsOnce(options: [String: String]) throws {
        let fixture = try DiskFixture.created(QCOW2.self, size: 2 << 20, options: options)
        let sessions = try FaultCampaign(fixture, operations: 16, limit: 12, largest: 128 << 10).run()
        #expect(sessions > 40)
    }

    /// 512-byte clusters with counts of 64 bits: the refcount table moves while the host fails.
    @Test func growthOfTheRefcountTableFails() throws {
        let directory = try TemporaryDirectory("fault")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=512", "refcount_bits=64"], size: 4 << 20)
        try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 1900k", path])
        let fixture = try QCOW2PowerCutTests.fixture("growth", path)
        #expect(try FaultCampaign(fixture, seed: 3, operations: 8, limit: 5, largest: 512 << 10).run() > 10)
    }

    @Test func copiesOfSnapshotsFail() throws {
        let directory = try TemporaryDirectory("fault")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["cluster_size=4096"], size: 1 << 20)
        try Oracle.scribble(path, "qcow2", size: 1 << 20, unit: 4096, seed: 5)
        try Oracle.run("qemu-img", ["snapshot", "-c", "kept", path])
        let fixture = try QCOW2PowerCutTests.fixture("snapshot", path)
        #expect(try FaultCampaign(fixture, operations: 16, limit: 12, largest: 128 << 10).run() > 40)
    }

    // MARK: - Hostile images

    /// An image with one L2 table, its guest cluster 1 at `target`, as the writer's own. The refcount there is 2, so that
    /// counting alone finds nothing wrong.
    private static func hostile(_ path: String, target: (_ header: [UInt8], _ table: Int) -> UInt64) throws {
        try Oracle.create(path, "qcow2", size: 4 << 20)
        try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 256k", path])
        var bytes = try HostFiles.read(path)
        let table = Int(word(bytes, Int(word(bytes, 40))) & 0x00FF_FFFF_FFFF_FE00)
        let place = target(bytes, table)
        bytes.put(place | 1 << 63, at: table + 8)
        bytes.put(UInt16(2), at: Int(word(bytes, Int(word(bytes, 48)))) + Int(place >> 16) * 2)
        try HostFiles.write(bytes, to: path)
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
        bytes[offset..<(offset + 8)].reduce(0) { $0 << 8 | UInt64($1) }
    }

    @Test(arguments: ["L1", "L2", "refcount table"])
    func metadataIsNeverWrittenAsContent(what: String) throws {
        let directory = try TemporaryDirectory("hostile")
        let path = directory.file("image.qcow2")
        try Self.hostile(path) { bytes, table in
            switch what {
            case "L1": Self.word(bytes, 40)
            case "L2": UInt64(table)
            default: Self.word(bytes, 48)
            }
        }
        let before = try HostFiles.read(path)
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        let data = [UInt8](repeating: 0xEE, count: 4096)
        let failure = imageError {
            try data.withUnsafeBytes { try disk.write(ByteRange(65_536, to: 69_632), from: $0) }
        }
        #expect(failure?.kind == .corrupt)
        // Already on disk: whoever opens the image next is warned.
        var after = try HostFiles.read(path)
        #expect(after[79] & 2 == 2)
        after[79] &= ~2
        #expect(firstDifference(Array(after.prefix(before.count)), before) == nil)
        // New clusters are given out no more, and what is sound is still read.
        #expect(
            imageError { try data.withUnsafeBytes { try disk.write(ByteRange(2 << 20, to: 2 << 20 + 4096), from: $0) } }
                != nil)
        #expect(try disk.contents(ByteRange(0, to: 65_536)).allSatisfy { $0 == 7 })
        #expect(imageError { _ = try Disk.open(path: path, options: .silent(isWritable: true)) }?.kind == .corrupt)
    }

    @Test func releasingMetadataIsRefused() throws {
        let directory = try TemporaryDirectory("hostile")
        let path = directory.file("image.qcow2")
        try Self.hostile(path) { bytes, _ in Self.word(bytes, 40) }
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        #expect(imageError { try disk.zero(ByteRange(65_536, to: 131_072)) }?.kind == .corrupt)
        #expect(try HostFiles.read(path)[79] & 2 == 2)
    }

    /// Counts of one bit cannot go above 1: what a snapshot would share is copied, and what is free is taken.
    @Test func countsOfOneBitStayWithinTheirBit() throws {
        let directory = try TemporaryDirectory("width")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", ["refcount_bits=1", "cluster_size=512"], size: 1 << 20)
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        let data = [UInt8](repeating: 0xEE, count: 100_000)
        for round in 0..<6 {
            let start = UInt64(round) * 77_777
            try data.withUnsafeBytes { try disk.write(ByteRange(start, to: start + 100_000), from: $0) }
            try disk.zero(ByteRange(start, to: start + 40_000))
            if round % 2 == 1 { try disk.flush() }
        }
        try disk.finish()
        try Oracle.run("qemu-img", ["check", "-f", "qcow2", path])
    }
}
