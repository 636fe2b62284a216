internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// The end of a mount: by signal while it is in use, by force, and by surprise.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(2)))
struct DrainTests {
    private let work: TemporaryDirectory
    private let image: String
    private let content: [UInt8]

    init() throws {
        work = try TemporaryDirectory("drain")
        content = Content.random(2 << 20, seed: 11)
        image = try work.write(content, to: "disk.raw")
    }

    @Test func termEndsAnIdleMount() throws {
        let served = try Served(image)
        served.process.signal(SIGTERM)
        #expect(served.ends(within: 5))
        #expect(clinux_is_mount_root(served.mountpoint) == 0)
        #expect(try HostFiles.list(served.mountpoint).isEmpty)
    }

    @Test func termServesAnOpenFileToItsEnd() throws {
        let served = try Served(image)
        let descriptor = open(served.path("disk.raw"), O_RDONLY | Int32(0o40000))
        try #require(descriptor >= 0)
        served.process.signal(SIGTERM)
        #expect(Seen.soon { clinux_is_mount_root(served.mountpoint) == 0 })
        #expect(served.process.isRunning)
        var space = UnsafeMutableRawPointer(bitPattern: 0)
        try #require(posix_memalign(&space, 4096, content.count) == 0)
        defer { free(space) }
        let got = pread(descriptor, space, content.count, 0)
        #expect(got == content.count)
        #expect(Content.isEqual(try #require(space), content, at: 0, count: content.count))
        close(descriptor)
        #expect(served.ends(within: 5))
    }

    @Test(.enabled(if: Fuse.isRoot && Tool.has("losetup"), "needs root and losetup"))
    func termServesALoopDeviceToItsEnd() throws {
        let served = try Served(image)
        let loop = try runSuccessfully("losetup", "-f", "-r", "--show", served.path("disk.raw"))
            .split(separator: "\n").joined()
        defer { _ = try? run("losetup", "-d", loop) }
        served.process.signal(SIGTERM)
        #expect(Seen.soon { clinux_is_mount_root(served.mountpoint) == 0 })
        #expect(served.process.isRunning)
        try runSuccessfully("cmp", image, loop)
        try runSuccessfully("losetup", "-d", loop)
        #expect(served.ends(within: 5))
    }

    @Test(.enabled(if: Fuse.isRoot, "an unprivileged user may not reach the connection's number"))
    func aSecondTermEndsTheConnection() throws {
        let served = try Served(image)
        let descriptor = open(served.path("disk.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        served.process.signal(SIGTERM)
        #expect(Seen.soon { clinux_is_mount_root(served.mountpoint) == 0 })
        served.process.signal(SIGTERM)
        #expect(served.ends(within: 5))
        var byte: UInt8 = 0
        #expect(Seen.failure { Int32(pread(descriptor, &byte, 1, 1 << 20)) } != 0)
    }

    @Test func killLeavesNothingThatHangs() throws {
        let served = try Served(image)
        let descriptor = open(served.path("disk.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        served.process.signal(SIGKILL)
        #expect(served.ends(within: 5))
        var byte: UInt8 = 0
        #expect(Seen.failure { Int32(pread(descriptor, &byte, 1, 1 << 20)) } == ENOTCONN)
        // The next start says what it found and takes its place.
        let result = try run(Served.program, "mount", image, served.mountpoint, timeout: 20)
        #expect(result.succeeded && result.errors.contains("had died"), "\(result)")
        #expect(try HostFiles.read(served.path("disk.raw")) == content)
        try runSuccessfully(Served.program, "umount", "--wait", served.mountpoint)
        #expect(clinux_is_mount_root(served.mountpoint) == 0)
    }

    @Test func badMountpointsAreRefused() throws {
        let missing = try run(Served.program, "mount", image, work.file("nowhere"), timeout: 20)
        #expect(missing.status == 32 && missing.errors.contains("nowhere"), "\(missing)")
        let full = work.file("full")
        try runSuccessfully("mkdir", "-p", full + "/x")
        let notEmpty = try run(Served.program, "mount", image, full, timeout: 20)
        #expect(notEmpty.status == 32 && notEmpty.errors.contains("not empty"), "\(notEmpty)")
        let inside = try run(Served.program, "mount", work.path, full + "/x", timeout: 20)
        #expect(inside.status == 32 && inside.errors.contains("inside"), "\(inside)")
        let above = try run(Served.program, "mount", "-o", "nonempty", image, work.path, timeout: 20)
        #expect(above.status == 32, "\(above)")
        let served = try Served(image)
        let twice = try run(Served.program, "mount", image, served.mountpoint, timeout: 20)
        #expect(twice.status == 32 && twice.errors.contains("already"), "\(twice)")
        try runSuccessfully("cmp", image, served.path("disk.raw"))
    }
}
