import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// What platter does not know, or does not change, is still there after an image was written: every byte of it.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2UnknownTests {
    private static let size: UInt64 = 2 << 20

    /// Writes, zeroes and commits as a mount would, and reads it back.
    private static func session(_ path: String) throws {
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        let bytes = [UInt8](repeating: 0x5A, count: 300_000)
        try bytes.withUnsafeBytes { try disk.write(ByteRange(100_000, to: 400_000), from: $0) }
        try disk.flush()
        try disk.zero(ByteRange(131_072, to: 262_144))
        try bytes.withUnsafeBytes { try disk.write(ByteRange(1_000_001, to: 1_300_001), from: $0) }
        try disk.finish()
        let again = try Disk.open(path: path, options: .silent(isWritable: false))
        #expect(try again.contents(ByteRange(1_000_001, to: 1_300_001)) == bytes)
    }

    private static func big(_ bytes: [UInt8], _ offset: Int, _ count: Int) -> Int {
        bytes[offset..<(offset + count)].reduce(0) { $0 << 8 | Int($1) }
    }

    /// An image whose header is longer than any known one, with an extension and feature bits that nobody knows.
    private static func strange(_ path: String, cluster: Int) throws -> [UInt8] {
        try Oracle.create(path, "qcow2", ["cluster_size=\(cluster)"], size: size)
        var bytes = try HostFiles.read(path)
        try ContractViolation.check(big(bytes, 100, 4) == 112, "a header of 112 bytes")
        var end = 112
        while big(bytes, end, 4) != 0 { end += 8 + (big(bytes, end + 4, 4) + 7) & ~7 }
        let unknown: [UInt8] = [0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]
        let field: [UInt8] = [0xC0, 0xFF, 0xEE, 1, 2, 3, 4, 5]
        let area = field + Array(bytes[112..<end]) + unknown
        bytes.replaceSubrange(112..<(112 + area.count), with: area)
        bytes[103] = 120
        bytes.put(UInt64(1) << 40, at: 80)
        bytes.put(UInt64(1) << 50 | 1 << 5, at: 88)
        try HostFiles.write(bytes, to: path)
        return bytes
    }

    @Test(arguments: [512, 65_536])
    func headerFieldsExtensionsAndCompatibleBitsStay(cluster: Int) throws {
        let directory = try TemporaryDirectory("unknown")
        let path = directory.file("image.qcow2")
        // The names of features fill more than 512 bytes.
        let size = max(cluster, 4096)
        let before = try Self.strange(path, cluster: size)
        try Self.session(path)
        var after = try HostFiles.read(path)
        #expect(Self.big(after, 88, 8) == 0, "autoclear bits that nobody knows are cleared")
        #expect(Self.big(after, 80, 8) == 1 << 40)
        after.put(UInt64(1) << 50 | 1 << 5, at: 88)
        // Nothing else of the first cluster has changed.
        #expect(firstDifference(Array(after[..<size]), Array(before[..<size])) == nil)
        try Oracle.run("qemu-img", ["check", "-f", "qcow2", path])
    }

    /// The autoclear bits are durable before the first byte of the guest: a cut before that leaves the image as it was.
    @Test func autoclearBitsGoFirst() throws {
        let directory = try TemporaryDirectory("unknown")
        let path = directory.file("image.qcow2")
        let bytes = try Self.strange(path, cluster: 65_536)
        let machine = PowerCutMachine([SparseBytes(bytes)], names: ["image.qcow2"])
        let fixture = DiskFixture(name: "autoclear", images: [(QCOW2.self, SparseBytes(bytes))])
        let disk = try fixture.open(machine.storages, true)
        var opened = PowerCutReplay(machine)
        opened.advance(to: machine.position)
        var chance = SeededRandom(seed: 1)
        #expect(opened.state(.everything, using: &chance)[0].bytes == bytes, "opening writes nothing")
        let data = [UInt8](repeating: 1, count: 512)
        try data.withUnsafeBytes { try disk.write(ByteRange(0, to: 512), from: $0) }
        var replay = PowerCutReplay(machine)
        var random = SeededRandom(seed: 1)
        for moment in 0...machine.position {
            replay.advance(to: moment)
            let state = replay.state(.everything, using: &random)[0].bytes
            let isCleared = Self.big(state, 88, 8) == 0
            // All that is written besides, up to here, is lost with the power; it may only be there after the header.
            let rest = replay.state(.nothing, using: &random)[0].bytes
            let isChanged = firstDifference(Array(rest.prefix(bytes.count)[512...]), Array(bytes[512...])) != nil
            #expect(isCleared || (!isChanged && rest.count == bytes.count), "event \(moment)")
        }
    }

    @Test func bitmapsStayAndAreMarkedOutOfDate() throws {
        let directory = try TemporaryDirectory("unknown")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", size: Self.size)
        try Oracle.run("qemu-img", ["bitmap", "--add", "-g", "65536", "-f", "qcow2", path, "kept"])
        try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 1M", path])
        let before = try HostFiles.read(path)
        #expect(before[95] & 1 == 1)
        var place = 112
        while Self.big(before, place, 4) != 0x2385_2875 { place += 8 + (Self.big(before, place + 4, 4) + 7) & ~7 }
        let directoryAt = Self.big(before, place + 24, 8)
        try Self.session(path)
        let after = try HostFiles.read(path)
        #expect(after[95] & 1 == 0)
        #expect(Array(after[96..<512]) == Array(before[96..<512]))
        // The directory's cluster, and the table that its first entry names.
        for offset in [directoryAt, Self.big(before, directoryAt, 8)] {
            let range = offset..<min(offset + 65_536, before.count)
            #expect(!range.isEmpty)
            #expect(firstDifference(Array(after[range]), Array(before[range])) == nil)
        }
        // QEMU counts the clusters of bitmaps that are out of date as leaks, which is the worst it may find.
        let result = try ChildProcess("qemu-img", ["check", "-f", "qcow2", path]).wait(timeout: 60)
        #expect(result.succeeded || (result.text.contains("leaked") && !result.text.contains("ERROR")), "\(result)")
    }

    @Test func extraDataOfSnapshotsStays() throws {
        let directory = try TemporaryDirectory("unknown")
        let path = directory.file("image.qcow2")
        try Oracle.create(path, "qcow2", size: Self.size)
        try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 1M", path])
        try Oracle.run("qemu-img", ["snapshot", "-c", "kept", path])
        var bytes = try HostFiles.read(path)
        // The table may be the last thing in the file.
        bytes += [UInt8](repeating: 0, count: 65_536 - bytes.count % 65_536)
        let table = Self.big(bytes, 64, 8)
        let extra = Self.big(bytes, table + 36, 4)
        let names = Array(bytes[(table + 40 + extra)..<(table + 40 + extra + 64)])
        bytes.replaceSubrange((table + 40 + extra)..<(table + 40 + extra + 8), with: [9, 8, 7, 6, 5, 4, 3, 2])
        bytes.replaceSubrange((table + 48 + extra)..<(table + 48 + extra + 64), with: names)
        bytes.put(UInt32(extra + 8), at: table + 36)
        try HostFiles.write(bytes, to: path)
        try Self.session(path)
        let after = try HostFiles.read(path)
        let range = table..<min(table + 65_536, bytes.count)
        #expect(firstDifference(Array(after[range]), Array(bytes[range])) == nil)
        #expect(Array(after[60..<72]) == Array(bytes[60..<72]))
        try Oracle.run("qemu-img", ["check", "-f", "qcow2", path])
        let raw = directory.file("kept.raw")
        try Oracle.run(
            "qemu-img", ["convert", "-f", "qcow2", "-l", "snapshot.name=kept", "-O", "raw", path, raw])
        #expect(try HostFiles.read(raw).prefix(1 << 20).allSatisfy { $0 == 7 })
    }
}
