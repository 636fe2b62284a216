internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Partitions, snapshots and layers as files beside their image.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(2)))
struct ViewTests {
    private let work: TemporaryDirectory

    init() throws { work = try TemporaryDirectory("views") }

    /// A raw disk with one MBR partition of 1 MiB at 1 MiB.
    private func partitioned(_ name: String) throws -> (path: String, partition: [UInt8]) {
        let partition = Content.random(1 << 20, seed: 21)
        var sector = [UInt8](repeating: 0, count: 512)
        let entry: [UInt8] = [0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]
        sector.replaceSubrange(446..<462, with: entry)
        (sector[510], sector[511]) = (0x55, 0xAA)
        let path = try work.write(sector, to: name)
        try HostFiles.patch(partition, at: 1 << 20, of: path)
        try HostFiles.truncate(path, to: 4 << 20)
        return (path, partition)
    }

    @Test func aPartitionIsAFile() throws {
        let (path, partition) = try partitioned("disk.raw")
        let served = try Served(path, "partitions")
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "disk.raw", "disk.raw.parts"])
        #expect(try HostFiles.list(served.path("disk.raw.parts")) == ["p1.raw"])
        #expect(try HostFiles.read(served.path("disk.raw.parts/p1.raw")) == partition)
        #expect(try Seen.facts(served.path("disk.raw.parts/p1.raw")).size == 1 << 20)
        #expect(Seen.openFailure(served.path("disk.raw.parts/p2.raw"), O_RDONLY) == ENOENT)
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func layersAndSnapshotsAreFiles() throws {
        let bytes = Content.random(1 << 20, seed: 22)
        let base = try work.write(bytes, to: "base.raw")
        let top = work.file("top.qcow2")
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top, "2M")
        try runSuccessfully("qemu-img", "snapshot", "-c", "first/one", top)
        try runSuccessfully("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", top)
        let served = try Served(top, "layers", "snapshots")
        #expect(
            try HostFiles.list(served.mountpoint)
                == [".platter", "top.qcow2.layers", "top.qcow2.raw", "top.qcow2.snaps"])
        #expect(try HostFiles.list(served.path("top.qcow2.layers")) == ["0.raw", "1.raw"])
        #expect(try HostFiles.read(served.path("top.qcow2.layers/0.raw")) == bytes)
        let whole = [UInt8](repeating: 7, count: 65536) + bytes[65536...] + [UInt8](repeating: 0, count: 1 << 20)
        #expect(try HostFiles.read(served.path("top.qcow2.layers/1.raw")) == Array(whole))
        #expect(try HostFiles.read(served.path("top.qcow2.raw")) == Array(whole))
        #expect(try HostFiles.list(served.path("top.qcow2.snaps")) == ["1-first_one.raw"])
        #expect(
            try HostFiles.read(served.path("top.qcow2.snaps/1-first_one.raw"))
                == bytes + [UInt8](repeating: 0, count: 1 << 20))
    }

    @Test func viewsAppearInDirectoriesToo() throws {
        let (path, partition) = try partitioned("a.raw")
        let served = try Served(work.path, "partitions")
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "a.raw", "a.raw.parts"])
        #expect(try HostFiles.read(served.path("a.raw.parts/p1.raw")) == partition)
        try runSuccessfully("cmp", path, served.path("a.raw"))
    }

    @Test func viewsOfAFileMountAreRefused() throws {
        let (path, _) = try partitioned("disk.raw")
        #expect(throws: HostFailure.self) { _ = try Served(path, "partitions", onFile: true) }
    }
}
