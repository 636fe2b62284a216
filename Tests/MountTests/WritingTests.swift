internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// What programs can and cannot do to a disk that is mounted for writing.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .enabled(if: Tool.has("qemu-img"), "needs qemu-img"),
    .timeLimit(.minutes(3)))
struct WritingTests {
    private let work: TemporaryDirectory
    private static let size = 8 << 20 + 1536 * 2

    init() throws { work = try TemporaryDirectory("writing") }

    private func served(_ format: WritableFormat = .raw, _ options: String...) throws -> (Served, String, String) {
        let image = try format.make(Self.size, in: work)
        let served = try Served.writable(image, options.isEmpty ? "name=disk.bin" : "name=disk.bin,\(options[0])")
        return (served, served.path("disk.bin"), image)
    }

    @Test(arguments: WritableFormat.all)
    func bytesOfAnyAlignmentArrive(format: WritableFormat) throws {
        let (served, disk, image) = try served(format)
        var model = [UInt8](repeating: 0, count: Self.size)
        let file = try OpenedFile(disk)
        var random = SeededRandom(seed: 31)
        for round in 0..<120 {
            let count = 8 * (1 + Int(random.next() % (round % 10 == 0 ? 400_000 : 2000)))
            let cut = Int(random.next() % 8)
            let bytes = Array(Content.random(count, seed: random.next())[cut...])
            let offset = Int(random.next() % UInt64(Self.size - bytes.count))
            try file.write(bytes, at: offset)
            model.replaceSubrange(offset..<(offset + bytes.count), with: bytes)
            if round % 40 == 39 { try file.synchronise() }
        }
        #expect(try HostFiles.read(disk) == model)
        let flat = try work.write(model, to: "model")
        try finish(served, file)
        try format.expectEqual(image, flat)
        try format.check(image)
    }

    /// Closes the file, unmounts, and expects that all went well.
    private func finish(_ served: Served, _ file: OpenedFile) throws {
        file.close()
        #expect(try served.unmount() == 0)
    }

    @Test func attributesSayThatItIsWritable() throws {
        let (served, disk, _) = try served()
        #expect(try Seen.facts(disk).mode & 0o7777 == 0o644)
        var space = statvfs()
        #expect(statvfs(served.mountpoint, &space) == 0)
        #expect(space.f_flag & UInt(ST_RDONLY) == 0)
        #expect(
            try HostFiles.text("/proc/self/mountinfo").split(separator: "\n").contains {
                $0.contains(" \(served.mountpoint) ") && $0.contains(" rw,")
            })
        let status = try JSON(parsing: HostFiles.read(served.path(".platter/status.json")))
        #expect(status["access"]?.string == "read-write")
        #expect(try Seen.facts(served.path(".platter/status.json")).mode & 0o222 == 0)
    }

    @Test func theEndOfTheDiskIsWhereWritingEnds() throws {
        let (served, disk, image) = try served()
        let (end, bytes) = (Self.size, Content.random(4096, seed: 5))
        for flags in [O_RDWR, O_RDWR | Seen.direct] {
            let file = try OpenedFile(disk, flags)
            let space = try Seen.aligned(bytes)
            defer { free(space) }
            #expect(Seen.failure { Int32(pwrite(file.descriptor, space, 512, off_t(end))) } == ENOSPC)
            #expect(Seen.failure { Int32(pwrite(file.descriptor, space, 512, off_t(end + 4096))) } == ENOSPC)
            // What fits is written, as on a block device, and then there is no room.
            #expect(pwrite(file.descriptor, space, 4096, off_t(end - 1024)) == 1024)
            #expect(try file.read(4096, at: end - 1024) == Array(bytes[..<1024]))
            #expect(Seen.failure { Int32(pwrite(file.descriptor, space, 512, off_t(end))) } == ENOSPC)
        }
        let appending = try OpenedFile(disk, O_WRONLY | O_APPEND)
        #expect(Seen.failure { Int32(write(appending.descriptor, "x", 1)) } == ENOSPC)
        #expect(try Seen.facts(disk).size == UInt64(end))
        #expect(try Seen.facts(image).size == UInt64(end))
        let copy = try run("dd", "if=/dev/zero", "of=\(disk)", "bs=1M", "conv=notrunc", "status=none")
        #expect(copy.status == 1 && copy.errors.contains("No space left"), "\(copy)")
        #expect(try HostFiles.read(disk).allSatisfy { $0 == 0 })
        withExtendedLifetime(served) {}
    }

    @Test func nothingIsCutOff() throws {
        let (served, disk, image) = try served()
        try HostFiles.patch([1, 2, 3], at: 5000, of: disk)
        for flags in [O_WRONLY | O_TRUNC, O_RDWR | O_TRUNC, O_RDWR | O_TRUNC | O_CREAT] {
            #expect(Seen.openFailure(disk, flags) == EPERM)
        }
        let copy = try run("cp", image, disk)
        #expect(!copy.succeeded && copy.errors.contains("not permitted"), "\(copy)")
        let file = try OpenedFile(disk)
        #expect(ftruncate(file.descriptor, off_t(Self.size)) == 0)
        #expect(truncate(disk, off_t(Self.size)) == 0)
        for size in [0, 512, Self.size - 1, Self.size + 1, 1 << 40] {
            #expect(Seen.failure { ftruncate(file.descriptor, off_t(size)) } == EPERM)
            #expect(Seen.failure { truncate(disk, off_t(size)) } == EPERM)
        }
        #expect(try file.read(3, at: 5000) == [1, 2, 3])
        #expect(try Seen.facts(disk).size == UInt64(Self.size))
        withExtendedLifetime(served) {}
    }

    @Test(arguments: WritableFormat.all)
    func truncationDiscardsWhereTheUserSaysSo(format: WritableFormat) throws {
        let (served, disk, image) = try served(format, "truncate=discard")
        try HostFiles.patch(Content.random(3 << 20, seed: 4), at: 100, of: disk)
        let file = try OpenedFile(disk, O_RDWR | O_TRUNC)
        #expect(try file.read(Self.size, at: 0).allSatisfy { $0 == 0 })
        #expect(Seen.failure { ftruncate(file.descriptor, 0) } == EPERM)
        // cp leaves out what it believes to be there already.
        let flat = try work.write([UInt8](repeating: 0, count: 2 << 20) + Content.random(4096, seed: 9), to: "flat")
        try HostFiles.truncate(flat, to: UInt64(Self.size))
        try HostFiles.patch(Content.random(8 << 20, seed: 4), at: 0, of: disk)
        try runSuccessfully("cp", "--sparse=always", flat, disk)
        #expect(try HostFiles.read(disk) == HostFiles.read(flat))
        #expect(try Seen.facts(disk).size == UInt64(Self.size))
        try finish(served, file)
        try format.expectEqual(image, flat)
    }

    @Test func whatIsNoPartOfADiskIsRefused() throws {
        let (served, disk, _) = try served()
        let other = served.path("other")
        #expect(Seen.failure { chmod(disk, 0o666) } == EPERM)
        #expect(Seen.failure { chown(disk, 1, 1) } == EPERM)
        #expect(Seen.openFailure(other, O_RDWR | O_CREAT) == EPERM)
        #expect(Seen.failure { unlink(disk) } == EPERM)
        #expect(Seen.failure { mkdir(other, 0o755) } == EPERM)
        #expect(Seen.failure { rename(disk, other) } == EPERM)
        #expect(Seen.failure { symlink("x", other) } == EPERM)
        #expect(Seen.failure { link(disk, other) } == EPERM)
        #expect(Seen.openFailure(served.path(".platter/status.json"), O_WRONLY) == EROFS)
        // Times are the image's; who sets them is not told off.
        #expect(utimes(disk, nil) == 0)
        try runSuccessfully("touch", "-c", disk)
    }

    @Test func fallocateMeansWhatItMeansOnABlockDevice() throws {
        let (served, disk, _) = try served()
        let file = try OpenedFile(disk)
        let content = Content.random(1 << 20, seed: 2)
        try file.write(content, at: 0)
        for mode in [Int32(0), 1] {
            #expect(Seen.failure { clinux_fallocate(file.descriptor, mode, 0, 4096) } == EOPNOTSUPP)
        }
        // Afterwards the kernel still asks.
        try file.allocate(3, at: 1000, count: 5)
        try file.allocate(17, at: 2000, count: 70_001)
        try file.allocate(16, at: 100_000, count: 3)
        try file.allocate(3, at: Self.size - 100, count: 1 << 40)
        try file.allocate(17, at: Self.size + 4096, count: 4096)
        #expect(Seen.failure { clinux_fallocate(file.descriptor, 16, Int64(Self.size - 1), 2) } == ENOSPC)
        var model = content
        for range in [1000..<1005, 2000..<72_001, 100_000..<100_003] {
            model.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
        }
        #expect(try file.read(1 << 20, at: 0) == model)
        #expect(try Seen.facts(disk).size == UInt64(Self.size))
        withExtendedLifetime(served) {}
    }

    @Test(arguments: WritableFormat.all)
    func holesOfAnyAlignmentReadAsZeros(format: WritableFormat) throws {
        let (served, disk, image) = try served(format)
        var model = Content.random(8 << 20, seed: 12) + [UInt8](repeating: 0, count: Self.size - 8 << 20)
        let file = try OpenedFile(disk)
        try file.write(model, at: 0)
        var random = SeededRandom(seed: 77)
        for round in 0..<60 {
            let count = 1 + Int(random.next() % (round % 4 == 0 ? 3 << 20 : 9000))
            let offset = Int(random.next() % UInt64(Self.size - count))
            try file.allocate(round % 2 == 0 ? 3 : 17, at: offset, count: count)
            model.replaceSubrange(offset..<(offset + count), with: [UInt8](repeating: 0, count: count))
            if round % 5 == 0 {
                let bytes = Content.random(8 << Int(random.next() % 12), seed: random.next())
                let place = Int(random.next() % UInt64(Self.size - bytes.count))
                try file.write(bytes, at: place)
                model.replaceSubrange(place..<(place + bytes.count), with: bytes)
            }
        }
        #expect(try HostFiles.read(disk) == model)
        try finish(served, file)
        try format.expectEqual(image, work.write(model, to: "model"))
        try format.check(image)
    }

    @Test(arguments: WritableFormat.all)
    func aSharedMappingIsWritten(format: WritableFormat) throws {
        let (served, disk, image) = try served(format)
        let file = try OpenedFile(disk)
        let content = Content.random(1 << 20, seed: 8)
        let map = try #require(mmap(nil, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor, 1 << 20))
        try #require(map != MAP_FAILED)
        content.copy(to: map + 4099)
        #expect(msync(map, 2 << 20, MS_SYNC) == 0)
        let direct = try OpenedFile(disk, O_RDONLY)
        #expect(try direct.read(content.count, at: 1 << 20 + 4099) == content)
        memset(map, 7, 10)
        munmap(map, 2 << 20)
        direct.close()
        try finish(served, file)
        var model = [UInt8](repeating: 0, count: Self.size)
        model.replaceSubrange((1 << 20 + 4099)..<(2 << 20 + 4099), with: content)
        model.replaceSubrange((1 << 20)..<(1 << 20 + 10), with: [UInt8](repeating: 7, count: 10))
        try format.expectEqual(image, work.write(model, to: "model"))
    }

    @Test func withoutAskingNothingIsWritable() throws {
        let image = try WritableFormat.raw.make(1 << 20, in: work)
        let served = try Served(image, "rw")
        #expect(Seen.openFailure(served.path("disk.raw"), O_RDWR) == EROFS)
        #expect(try Seen.facts(served.path("disk.raw")).mode & 0o7777 == 0o444)
    }

    @Test
    func aFileCanBeTheDiskThatIsWritten() throws {
        let image = try WritableFormat.qcow2.make(1 << 20, in: work)
        let served = try Served.writable(image, onFile: true)
        let content = Content.random(1 << 20, seed: 3)
        let file = try OpenedFile(served.mountpoint)
        try file.write(content, at: 0)
        try file.synchronise()
        try finish(served, file)
        try WritableFormat.qcow2.expectEqual(image, work.write(content, to: "model"))
    }
}
