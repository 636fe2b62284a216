internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// When what was written is in the image: at close, at fsync, when the mount is gone, and soon in any case.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable && Fuse.isRoot, "needs /dev/fuse and root"),
    .enabled(if: Tool.has("qemu-img"), "needs qemu-img"), .timeLimit(.minutes(5)))
struct CommitTests {
    private let work: TemporaryDirectory

    init() throws { work = try TemporaryDirectory("commit") }

    private func isUncommitted(_ served: Served) throws -> Bool {
        let status = try JSON(parsing: HostFiles.read(served.path(".platter/status.json")))
        return status["images"]?.array?.first?["uncommitted"]?.bool ?? true
    }

    @Test(arguments: WritableFormat.all)
    func theImageIsFinalWhenUmountSucceeds(format: WritableFormat) throws {
        let image = try format.make(32 << 20, in: work)
        let model = work.file("model")
        try HostFiles.truncate(model, to: 32 << 20)
        for round in 0..<4 {
            let served = try Served.writable(image)
            let bytes = Content.random(5 << 20, seed: UInt64(round))
            let offset = Int64(round * (5 << 20) + 777)
            try HostFiles.patch(bytes, at: offset, of: served.path(format.shown()))
            try HostFiles.patch(bytes, at: offset, of: model)
            // The close of the file has committed: nothing keeps the mount busy.
            #expect(umount2(served.mountpoint, 0) == 0, "round \(round): \(String(cString: strerror(errno)))")
            let copy = work.file("copy")
            try runSuccessfully("cp", "--sparse=always", image, copy)
            // Durable means in the log or in its place: QEMU has to find it from either.
            if format.name == "vhdx" { try runSuccessfully("qemu-img", "check", "-q", "-r", "all", copy) }
            try format.expectEqual(copy, model)
            #expect(served.ends(within: 10) && served.process.wait(timeout: 1).status == 0)
            try format.check(image)
        }
        try format.expectEqual(image, model)
    }

    @Test(arguments: WritableFormat.all)
    func closeMakesTheContentSurviveAKill(format: WritableFormat) throws {
        let image = try format.make(16 << 20, in: work)
        let bytes = Content.random(3 << 20, seed: 1)
        do {
            let served = try Served.writable(image)
            try HostFiles.patch(bytes, at: 1000, of: served.path(format.shown()))
            served.process.signal(SIGKILL)
            #expect(served.ends(within: 5))
        }
        let served = try Served(image)
        #expect(try OpenedFile(served.path(format.shown()), O_RDONLY).read(bytes.count, at: 1000) == bytes)
    }

    @Test(arguments: WritableFormat.all)
    func aSynchronousWriteIsDurableAlsoPastTheCache(format: WritableFormat) throws {
        let image = try format.make(16 << 20, in: work)
        let bytes = Content.random(64 << 10, seed: 1)
        let space = try Seen.aligned(bytes)
        defer { free(space) }
        for (index, flags) in [O_DSYNC, O_DSYNC | Seen.direct].enumerated() {
            let served = try Served.writable(image)
            let file = try OpenedFile(served.path(format.shown()), O_RDWR | flags)
            #expect(pwrite(file.descriptor, space, bytes.count, off_t(index << 20)) == bytes.count)
            served.process.signal(SIGKILL)
            #expect(served.ends(within: 5))
        }
        let served = try Served(image)
        for index in 0..<2 {
            let file = try OpenedFile(served.path(format.shown()), O_RDONLY)
            #expect(try file.read(bytes.count, at: index << 20) == bytes)
        }
    }

    @Test(arguments: WritableFormat.sparse)
    func aPauseStartsACommit(format: WritableFormat) throws {
        let image = try format.make(16 << 20, in: work)
        let served = try Served.writable(image)
        let file = try OpenedFile(served.path(format.shown()))
        try file.write(Content.random(1 << 20, seed: 4), at: 0)
        // Nobody asks.
        #expect(try Seen.soon(within: 8) { try !isUncommitted(served) })
        served.process.signal(SIGKILL)
        #expect(served.ends(within: 5))
        file.close()
        let again = try Served(image)
        #expect(
            try OpenedFile(again.path(format.shown()), O_RDONLY).read(1 << 20, at: 0)
                == Content.random(1 << 20, seed: 4))
    }

    @Test(arguments: WritableFormat.sparse)
    func umountIsRefusedWhileSomethingIsUncommitted(format: WritableFormat) throws {
        let image = try format.make(64 << 20, in: work)
        let served = try Served.writable(image)
        let path = served.path(format.shown())
        // A mapping keeps its file without a descriptor: its end sends no FLUSH.
        let descriptor = open(path, O_RDWR)
        let map = try #require(mmap(nil, 64 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0))
        try #require(map != MAP_FAILED)
        close(descriptor)
        let bytes = Content.random(48 << 20, seed: 3)
        bytes.copy(to: map)
        munmap(map, 64 << 20)
        #expect(try served.unmount() == 0)
        let flat = try work.write(bytes, to: "flat")
        try HostFiles.truncate(flat, to: 64 << 20)
        try format.expectEqual(image, flat)
        try format.check(image)
    }

    @Test func anFsyncOfTheMountpointCommits() throws {
        let image = try WritableFormat.qcow2.make(16 << 20, in: work)
        let served = try Served.writable(image)
        let file = try OpenedFile(served.path("disk.qcow2.raw"))
        try file.write(Content.random(1 << 20, seed: 4), at: 0)
        try runSuccessfully("sync", served.mountpoint)
        served.process.signal(SIGKILL)
        #expect(served.ends(within: 5))
        let again = try Served(image)
        #expect(
            try OpenedFile(again.path("disk.qcow2.raw"), O_RDONLY).read(1 << 20, at: 0)
                == Content.random(1 << 20, seed: 4))
    }

    @Test(arguments: WritableFormat.sparse)
    func termCommitsWhatIsStillOpen(format: WritableFormat) throws {
        let image = try format.make(16 << 20, in: work)
        let bytes = Content.random(2 << 20, seed: 7)
        let served = try Served.writable(image)
        let file = try OpenedFile(served.path(format.shown()))
        try file.write(bytes, at: 0)
        served.process.signal(SIGTERM)
        #expect(Seen.soon { clinux_is_mount_root(served.mountpoint) == 0 })
        try file.write(bytes, at: 4 << 20)
        file.close()
        #expect(served.ends(within: 10) && served.process.wait(timeout: 1).status == 0)
        var model = [UInt8](repeating: 0, count: 16 << 20)
        model.replaceSubrange(0..<bytes.count, with: bytes)
        model.replaceSubrange((4 << 20)..<(4 << 20 + bytes.count), with: bytes)
        try format.expectEqual(image, work.write(model, to: "model"))
        try format.check(image)
    }

    @Test func imagesOfADirectoryAreOpenedForWritingByTheirFirstWriter() throws {
        let image = try WritableFormat.qcow2.make(8 << 20, in: work, name: "a")
        let other = try WritableFormat.vhdx.make(8 << 20, in: work, name: "b")
        let served = try Served.writable(work.path)
        let path = served.path("a.qcow2.raw")
        let reader = try OpenedFile(path, O_RDONLY)
        _ = try reader.read(512, at: 0)
        // A reader's locks leave QEMU its own.
        try runSuccessfully("qemu-img", "info", image)
        #expect(Seen.openFailure(path, O_RDWR) == EBUSY)
        reader.close()
        let bytes = Content.random(1 << 20, seed: 5)
        try HostFiles.patch(bytes, at: 4096, of: path)
        try HostFiles.patch(bytes, at: 512, of: served.path("b.vhdx.raw"))
        #expect(!(try run("qemu-img", "info", image)).succeeded)
        #expect(try OpenedFile(path, O_RDONLY).read(bytes.count, at: 4096) == bytes)
        // Closed when idle, after the last commit.
        #expect(try Seen.soon(within: 10) { try run("qemu-img", "info", image).succeeded })
        try WritableFormat.qcow2.check(image)
        #expect(try OpenedFile(path, O_RDONLY).read(bytes.count, at: 4096) == bytes)
        try HostFiles.patch([1, 2, 3], at: 0, of: path)
        #expect(try served.unmount() == 0)
        for (image, format) in [(image, WritableFormat.qcow2), (other, WritableFormat.vhdx)] {
            try format.check(image)
        }
        var model = [UInt8](repeating: 0, count: 8 << 20)
        model.replaceSubrange(4096..<(4096 + bytes.count), with: bytes)
        model.replaceSubrange(0..<3, with: [1, 2, 3])
        try WritableFormat.qcow2.expectEqual(image, work.write(model, to: "model"))
    }

    @Test func aReadOnlyImageOfADirectoryCannotBeWritten() throws {
        let image = try WritableFormat.qcow2.make(8 << 20, in: work, name: "a")
        try runSuccessfully("chattr", "+i", image)
        defer { _ = try? run("chattr", "-i", image) }
        let served = try Served.writable(work.path)
        let code = Seen.openFailure(served.path("a.qcow2.raw"), O_RDWR)
        #expect([EROFS, EIO].contains(code), "\(code)")
        #expect(try OpenedFile(served.path("a.qcow2.raw"), O_RDONLY).read(512, at: 0).allSatisfy { $0 == 0 })
    }
}
