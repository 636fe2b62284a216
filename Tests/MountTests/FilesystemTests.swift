internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Filesystems inside images, used the way people use them: loop devices, mount(8), and the tools that copy disks.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason),
    .enabled(if: Fuse.isRoot && Tool.has("losetup", "mount", "qemu-img"), "needs root, losetup, mount and qemu-img"),
    .timeLimit(.minutes(5)))
struct FilesystemTests {
    /// A filesystem: its maker, and how to mount it without a write.
    struct Kind: Sendable, CustomTestStringConvertible {
        var name: String
        var tool: String
        var arguments: [String]
        var size: String
        var readOnly: String
        var testDescription: String { name }
    }

    static let kinds = [
        Kind(name: "ext4", tool: "mkfs.ext4", arguments: ["-q", "-F"], size: "64M", readOnly: "loop,ro"),
        Kind(name: "xfs", tool: "mkfs.xfs", arguments: ["-q", "-f"], size: "320M", readOnly: "loop,ro,norecovery"),
        Kind(name: "btrfs", tool: "mkfs.btrfs", arguments: ["-q", "-f"], size: "160M", readOnly: "loop,ro"),
    ]

    /// Mounts something by mount(8), and unmounts it with the object: first made, then used.
    private final class HostMount {
        let path: String
        init(_ source: String, options: String, in work: TemporaryDirectory) throws {
            path = work.file("fs")
            guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw HostFailure("mkdir \(path)") }
            try runSuccessfully("mount", "-o", options, source, path)
        }
        deinit { _ = try? run("umount", path, timeout: 20) }
    }

    /// Attaches a loop device, and detaches it with the object.
    private final class Loop {
        let device: String
        init(_ file: String, directIO: Bool, _ more: String...) throws {
            let mode = "--direct-io=\(directIO ? "on" : "off")"
            let result = try ChildProcess("losetup", ["-f", "--show", "-r", mode] + more + [file]).wait()
            guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
            device = String(result.text.dropLast(result.text.hasSuffix("\n") ? 1 : 0))
        }
        deinit { _ = try? run("losetup", "-d", device, timeout: 20) }
    }

    /// A raw disk of one filesystem with files of random bytes in it.
    private func makeDisk(_ kind: Kind, in work: TemporaryDirectory) throws -> String {
        let disk = work.file("fs.raw")
        try runSuccessfully("truncate", "-s", kind.size, disk)
        let made = try ChildProcess(kind.tool, kind.arguments + [disk]).wait()
        guard made.succeeded else { throw HostFailure("\(made)", errno: 0) }
        let mounted = try HostMount(disk, options: "loop", in: work)
        for index in 0..<8 {
            let bytes = Content.random(1 << (12 + index), seed: UInt64(index))
            try HostFiles.write(bytes, to: "\(mounted.path)/file\(index)")
        }
        return disk
    }

    private func expectFiles(in directory: String) throws {
        for index in 0..<8 {
            let bytes = try HostFiles.read("\(directory)/file\(index)")
            #expect(bytes == Content.random(1 << (12 + index), seed: UInt64(index)), "file\(index)")
        }
    }

    @Test(arguments: kinds, ["qcow2", "vhdx", "vpc"])
    func filesystemsMountThroughLoop(kind: Kind, format: String) throws {
        try #require(Tool.has(kind.tool), "\(kind.tool) is missing")
        let work = try TemporaryDirectory("fs")
        let disk = try makeDisk(kind, in: work)
        let image = work.file("fs.\(format)")
        let options = format == "vpc" ? ["-o", "force_size=on"] : []
        let made = try ChildProcess("qemu-img", ["convert", "-q", "-O", format] + options + [disk, image]).wait()
        try #require(made.succeeded, "\(made)")
        let served = try Served(image)
        let shown = served.path("fs.\(format).raw")
        try runSuccessfully("cmp", disk, shown, timeout: 120)
        do {
            let mounted = try HostMount(shown, options: kind.readOnly, in: work)
            try expectFiles(in: mounted.path)
        }
        for directIO in [true, false] {
            let loop = try Loop(shown, directIO: directIO)
            try runSuccessfully("cmp", disk, loop.device, timeout: 120)
        }
    }

    @Test(.enabled(if: Tool.has("sgdisk", "mkfs.ext4"), "sgdisk or mkfs.ext4 is missing"))
    func aPartitionFileMounts() throws {
        let work = try TemporaryDirectory("part")
        let part = try makeDisk(Self.kinds[0], in: work)
        let disk = work.file("whole.raw")
        try runSuccessfully("truncate", "-s", "80M", disk)
        try runSuccessfully("sgdisk", "-n", "3:2048:+64M", "-t", "3:8300", disk)
        try runSuccessfully("dd", "if=\(part)", "of=\(disk)", "bs=1M", "seek=1", "conv=notrunc", "status=none")
        let image = work.file("whole.vhdx")
        try runSuccessfully("qemu-img", "convert", "-q", "-O", "vhdx", disk, image)
        let served = try Served(image, "partitions")
        let shown = served.path("whole.vhdx.parts/p3.raw")
        try runSuccessfully("cmp", part, shown)
        do {
            let mounted = try HostMount(shown, options: "loop,ro", in: work)
            try expectFiles(in: mounted.path)
        }
        // The same bytes through the whole disk at the partition's offset.
        let loop = try Loop(served.path("whole.vhdx.raw"), directIO: true, "-o", "1048576", "--sizelimit", "64MiB")
        try runSuccessfully("cmp", part, loop.device)
    }

    @Test(.enabled(if: Tool.has("rsync", "tar", "cp"), "rsync, tar or cp is missing"), arguments: ["qcow2", "vhdx"])
    func copyingToolsAgree(format: String) throws {
        let work = try TemporaryDirectory("copy")
        let disk = work.file("disk.raw")
        try HostFiles.patch(Content.random(3 << 20, seed: 1), at: 1 << 20, of: disk)
        try HostFiles.patch(Content.random(1 << 16, seed: 2), at: 40 << 20, of: disk)
        try HostFiles.truncate(disk, to: 64 << 20)
        let image = work.file("disk.\(format)")
        try runSuccessfully("qemu-img", "convert", "-q", "-O", format, disk, image)
        let served = try Served(image)
        let name = "disk.\(format).raw"
        let shown = served.path(name)
        try runSuccessfully("dd", "if=\(shown)", "of=\(work.file("dd"))", "bs=300k", "status=none")
        try runSuccessfully("cp", shown, work.file("cp"))
        try runSuccessfully("cp", "--sparse=always", shown, work.file("cp-sparse"))
        try runSuccessfully("rsync", "-S", shown, work.file("rsync"))
        try runSuccessfully("tar", "-S", "-C", served.mountpoint, "-cf", work.file("disk.tar"), name)
        try runSuccessfully("tar", "-C", work.path, "-xf", work.file("disk.tar"))
        for copy in ["dd", "cp", "cp-sparse", "rsync", name] {
            try runSuccessfully("cmp", disk, work.file(copy))
        }
        // The archive knows the holes: it is not much larger than the data.
        #expect(try Seen.facts(work.file("disk.tar")).size < 24 << 20)
    }
}
