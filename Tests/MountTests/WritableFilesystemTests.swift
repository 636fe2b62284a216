internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// A loop device for writing on a file, detached with the object.
final class WritableLoop {
    let device: String
    private var isAttached = true

    init(_ file: String, directIO: Bool) throws {
        let mode = "--direct-io=\(directIO ? "on" : "off")"
        let result = try ChildProcess("losetup", ["-f", "--show", mode, file]).wait()
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        device = String(result.text.dropLast(result.text.hasSuffix("\n") ? 1 : 0))
    }

    func detach() throws {
        isAttached = false
        try runSuccessfully("losetup", "-d", device, timeout: 20)
    }

    deinit { if isAttached { _ = try? run("losetup", "-d", device, timeout: 20) } }
}

/// Something mounted by mount(8) for writing, unmounted with the object.
final class WritableMount {
    let path: String
    private var isMounted = true

    init(_ source: String, in work: TemporaryDirectory, options: String = "rw") throws {
        path = work.file("fs")
        guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw HostFailure("mkdir \(path)") }
        try runSuccessfully("mount", "-o", options, source, path)
    }

    func unmount() throws {
        isMounted = false
        try runSuccessfully("umount", path, timeout: 60)
    }

    deinit { if isMounted { _ = try? run("umount", "-l", path, timeout: 20) } }
}

/// Filesystems made and used inside images through loop devices.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason),
    .enabled(if: Fuse.isRoot && Tool.has("losetup", "mount", "qemu-img", "fstrim"), "needs root, losetup and fstrim"),
    .timeLimit(.minutes(5)))
struct WritableFilesystemTests {
    /// A filesystem: how it is made and checked.
    struct Kind: Sendable, CustomTestStringConvertible {
        var make: [String]
        var check: [String]
        var megabytes: Int
        var testDescription: String { make[0] }
    }

    static let kinds = [
        Kind(make: ["mkfs.ext4", "-q", "-F"], check: ["e2fsck", "-fn"], megabytes: 96),
        Kind(make: ["mkfs.xfs", "-q", "-f"], check: ["xfs_repair", "-n"], megabytes: 320),
        Kind(make: ["mkfs.btrfs", "-q", "-f"], check: ["btrfs", "check"], megabytes: 192),
    ]

    private func succeed(_ words: [String], _ last: String) throws {
        var result = try ChildProcess(words[0], words.dropFirst() + [last]).wait(timeout: 120)
        // The kernel lets go of a filesystem's device a moment after its umount has returned.
        for _ in 0..<20 where !result.succeeded && "\(result)".contains("resource busy") {
            usleep(250_000)
            result = try ChildProcess(words[0], words.dropFirst() + [last]).wait(timeout: 120)
        }
        #expect(result.succeeded, "\(result)")
    }

    @Test(arguments: kinds, WritableFormat.all)
    func aFilesystemLives(kind: Kind, format: WritableFormat) throws {
        try #require(Tool.has(kind.make[0], kind.check[0]), "\(kind.make[0]) is missing")
        let work = try TemporaryDirectory("fs")
        let image = try format.make(kind.megabytes << 20, in: work)
        let served = try Served.writable(image)
        let directIO = format.name.utf8.count % 2 == 0
        let loop = try WritableLoop(served.path(format.shown()), directIO: directIO)
        try succeed(kind.make, loop.device)
        let kept = Content.random(1 << 20, seed: 1)
        do {
            let mounted = try WritableMount(loop.device, in: work)
            try HostFiles.write(kept, to: mounted.path + "/kept")
            for index in 0..<6 {
                try HostFiles.write(Content.random(8 << 20, seed: UInt64(index)), to: "\(mounted.path)/file\(index)")
            }
            try runSuccessfully("sync", "-f", mounted.path)
            let full = try Seen.facts(image).blocks
            for index in 0..<6 { #expect(unlink("\(mounted.path)/file\(index)") == 0) }
            try runSuccessfully("sync", "-f", mounted.path)
            // Filesystems give space back when the transaction that freed it is through.
            let hasShrunk = try Seen.soon(within: 20) {
                try runSuccessfully("fstrim", mounted.path)
                try runSuccessfully("sync", "-f", mounted.path)
                return try Seen.facts(image).blocks + (32 << 20) / 512 < full
            }
            #expect(hasShrunk, "of \(full) sectors")
            #expect(try HostFiles.read(mounted.path + "/kept") == kept)
            try mounted.unmount()
        }
        // The loop still discards: no answer has put it off.
        let name = String(loop.device.split(separator: "/").last ?? "")
        let limit = try HostFiles.text("/sys/block/\(name)/queue/discard_max_bytes").split(separator: "\n").first
        #expect(limit != nil && limit != "0")
        try succeed(kind.check, loop.device)
        try loop.detach()
        #expect(try served.unmount() == 0)
        try format.check(image)
        let again = try Served(image)
        let reading = try runSuccessfully("losetup", "-f", "-r", "--show", again.path(format.shown()))
            .split(separator: "\n").joined()
        defer { _ = try? run("losetup", "-d", reading) }
        try succeed(kind.check, reading)
    }

    @Test(arguments: WritableFormat.all)
    func copyingToolsFillADisk(format: WritableFormat) throws {
        let work = try TemporaryDirectory("copy")
        let size = 24 << 20
        let image = try format.make(size, in: work)
        let flat = work.file("flat")
        try HostFiles.patch(Content.random(5 << 20, seed: 1), at: 1 << 20, of: flat)
        try HostFiles.patch(Content.random(8 << 10, seed: 2), at: 20 << 20 + 512, of: flat)
        try HostFiles.truncate(flat, to: UInt64(size))
        for arguments in [
            ["bs=1M"], ["bs=4k"], ["bs=64k", "oflag=direct"], ["bs=300k", "conv=notrunc,fsync"],
            ["bs=1M", "oflag=dsync"],
        ] {
            let served = try Served.writable(image)
            let words = ["if=\(flat)", "of=\(served.path(format.shown()))", "conv=notrunc", "status=none"]
            let copy = try ChildProcess("dd", words + arguments).wait()
            #expect(copy.succeeded, "\(copy)")
            try runSuccessfully("cmp", flat, served.path(format.shown()))
            #expect(try served.unmount() == 0)
            try format.expectEqual(image, flat)
        }
        let served = try Served.writable(image)
        let copy = try run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", flat, served.path(format.shown()))
        #expect(copy.succeeded, "\(copy)")
        #expect(try served.unmount() == 0)
        try format.expectEqual(image, flat)
        try format.check(image)
    }

    @Test(
        .enabled(if: Tool.has("sgdisk", "mkfs.ext4", "e2fsck"), "sgdisk or mkfs.ext4 is missing"))
    func aFilesystemIsMadeInAPartitionFile() throws {
        let work = try TemporaryDirectory("part")
        let image = try WritableFormat.vhdx.make(80 << 20, in: work)
        do {
            let served = try Served.writable(image)
            try runSuccessfully("sgdisk", "-n", "3:2048:+64M", "-t", "3:8300", served.path("disk.vhdx.raw"))
            #expect(try served.unmount() == 0)
        }
        let served = try Served.writable(image, "partitions")
        let part = served.path("disk.vhdx.parts/p3.raw")
        try runSuccessfully("mkfs.ext4", "-q", "-F", part)
        let mounted = try WritableMount(part, in: work, options: "loop,rw")
        let bytes = Content.random(4 << 20, seed: 4)
        try HostFiles.write(bytes, to: mounted.path + "/file")
        try mounted.unmount()
        try runSuccessfully("e2fsck", "-fn", part)
        #expect(try served.unmount() == 0)
        try WritableFormat.vhdx.check(image)
        let flat = work.file("flat")
        try runSuccessfully("qemu-img", "convert", "-O", "raw", image, flat)
        let loop = try runSuccessfully("losetup", "-f", "-r", "--show", "-o", "1048576", "--sizelimit", "64MiB", flat)
            .split(separator: "\n").joined()
        defer { _ = try? run("losetup", "-d", loop) }
        try runSuccessfully("e2fsck", "-fn", loop)
    }
}
