internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// One image on a directory or on a file, through the kernel.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(2)))
struct ImageMountTests {
    private let work: TemporaryDirectory
    /// Random bytes with a hole in the middle and one at the end, and a length that fits no unit.
    private let content: [UInt8]
    private let image: String

    init() throws {
        work = try TemporaryDirectory("image")
        image = work.file("disk.raw")
        let head = Content.random(3 << 20, seed: 7)
        let tail = Content.random(1 << 20, seed: 8)
        try HostFiles.patch(head, at: 0, of: image)
        try HostFiles.patch(tail, at: 8 << 20, of: image)
        let size = 12 << 20 + 1536
        try HostFiles.truncate(image, to: UInt64(size))
        content =
            head + [UInt8](repeating: 0, count: 5 << 20) + tail
            + [UInt8](repeating: 0, count: size - (9 << 20))
    }

    @Test func copiesAreIdentical() throws {
        let served = try Served(image)
        let disk = served.path("disk.raw")
        try runSuccessfully("cmp", image, disk)
        for arguments in [["bs=4k"], ["bs=64k", "iflag=direct"], ["bs=1M", "iflag=direct"], ["bs=1M"]] {
            let copy = work.file("copy")
            let result = try ChildProcess("dd", ["if=\(disk)", "of=\(copy)", "status=none"] + arguments).wait()
            #expect(result.succeeded, "\(result)")
            try runSuccessfully("cmp", image, copy)
        }
        try runSuccessfully("cp", "--sparse=always", disk, work.file("sparse"))
        try runSuccessfully("cmp", image, work.file("sparse"))
        try runSuccessfully("tar", "-S", "-C", served.mountpoint, "-cf", work.file("t.tar"), "disk.raw")
        try runSuccessfully("tar", "-C", work.path, "--transform=s/disk/untarred/", "-xf", work.file("t.tar"))
        try runSuccessfully("cmp", image, work.file("untarred.raw"))
    }

    @Test func sixteenThreadsReadTheRightBytes() throws {
        let served = try Served(image)
        let path = served.path("disk.raw")
        let content = content
        try concurrently(16) { index in
            // Half of them past the page cache, where every size reaches the server as it is.
            let direct = index % 2 == 0
            let descriptor = open(path, direct ? O_RDONLY | Int32(0o40000) : O_RDONLY)
            guard descriptor >= 0 else { throw HostFailure("open") }
            defer { close(descriptor) }
            var random = SeededRandom(seed: UInt64(100 + index))
            var space = UnsafeMutableRawPointer(bitPattern: 0)
            guard posix_memalign(&space, 4096, 2 << 20) == 0, let buffer = space else { throw HostFailure("memory") }
            defer { free(buffer) }
            for _ in 0..<300 {
                let unit = direct ? 512 : 1
                let offset = Int(random.next() % UInt64(content.count)) / unit * unit
                let length = max(unit, Int(random.next() % (random.next() % 4 == 0 ? 2 << 20 : 70_000)) / unit * unit)
                let got = pread(descriptor, buffer, length, off_t(offset))
                let expected = min(length, content.count - offset)
                guard got == expected, Content.isEqual(buffer, content, at: offset, count: expected) else {
                    throw HostFailure("thread \(index): \(length) bytes at \(offset) gave \(got)", errno: 0)
                }
            }
        }
    }

    @Test func attributesTellTheTruth() throws {
        let served = try Served(image)
        let facts = try Seen.facts(served.path("disk.raw"))
        let host = try Seen.facts(image)
        #expect(facts.size == UInt64(content.count))
        #expect(facts.blocks == host.blocks)
        #expect(facts.modify_ns == host.modify_ns)
        #expect(facts.mode & 0o7777 == 0o444)
        var space = statvfs()
        #expect(statvfs(served.mountpoint, &space) == 0)
        #expect(space.f_bsize.nonzeroBitCount == 1 && space.f_bsize >= 4096 && space.f_bsize <= 65536)
        #expect(space.f_blocks > 0)
        #expect(space.f_flag & UInt(ST_RDONLY) != 0)
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "disk.raw"])
    }

    @Test func holesAreFound() throws {
        let served = try Served(image)
        let descriptor = open(served.path("disk.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        #expect(clinux_seek_data(descriptor, 0) == 0)
        #expect(clinux_seek_hole(descriptor, 0) == 3 << 20)
        #expect(clinux_seek_data(descriptor, 4 << 20) == 8 << 20)
        #expect(clinux_seek_hole(descriptor, 8 << 20) == 9 << 20)
        for past in [Int64(9 << 20), Int64(content.count), 1 << 50] {
            #expect(Seen.failure { Int32(clamping: clinux_seek_data(descriptor, past)) } == ENXIO)
        }
        #expect(clinux_seek_hole(descriptor, Int64(content.count - 1)) == Int64(content.count - 1))
        #expect(Seen.failure { Int32(clamping: clinux_seek_hole(descriptor, Int64(content.count))) } == ENXIO)
    }

    @Test func nothingCanBeChanged() throws {
        let served = try Served(image)
        let (disk, other) = (served.path("disk.raw"), served.path("other"))
        for flags in [O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_WRONLY | O_APPEND] {
            #expect(Seen.openFailure(disk, flags) == EROFS)
        }
        #expect(Seen.openFailure(disk, O_RDONLY | O_TRUNC) == EROFS)
        #expect(Seen.openFailure(other, O_RDWR | O_CREAT) == EROFS)
        #expect(Seen.failure { truncate(disk, 0) } == EROFS)
        #expect(Seen.failure { unlink(disk) } == EROFS)
        #expect(Seen.failure { mkdir(other, 0o755) } == EROFS)
        #expect(Seen.failure { rename(disk, other) } == EROFS)
        #expect(Seen.failure { symlink("x", other) } == EROFS)
        #expect(Seen.failure { link(disk, other) } == EROFS)
        #expect(Seen.failure { chmod(disk, 0o666) } == EROFS)
        try runSuccessfully("cmp", image, disk)
    }

    @Test func aRegularFileBecomesTheDisk() throws {
        let served = try Served(image, onFile: true)
        try runSuccessfully("cmp", image, served.mountpoint)
        #expect(try Seen.facts(served.mountpoint).size == UInt64(content.count))
        served.end()
        #expect(try Seen.facts(served.mountpoint).size == 0)
    }

    @Test func aNameThatIsTooLongIsSaidToBe() throws {
        let served = try Served(image)
        let path = served.path(String(repeating: "x", count: 255))
        #expect(Seen.openFailure(path, O_RDONLY) == ENOENT)
        #expect(Seen.openFailure(path + "x", O_RDONLY) == ENAMETOOLONG)
    }

    @Test func aNameCanBeChosen() throws {
        let served = try Served(image, "name=other.bin")
        try runSuccessfully("cmp", image, served.path("other.bin"))
    }

    @Test func theStatusFileIsJSON() throws {
        let served = try Served(image)
        try runSuccessfully("cmp", image, served.path("disk.raw"))
        let status = try JSON(parsing: HostFiles.read(served.path(".platter/status.json")))
        #expect(status["source"]?.string == image)
        #expect(status["mode"]?.string == "image")
        #expect(status["pid"]?.uint64 == UInt64(served.process.pid))
        let first = try #require(status["images"]?.array?.first)
        #expect(first["size"]?.uint64 == UInt64(content.count))
        #expect(first["bytes"]?.uint64 == UInt64(content.count))
        #expect(first["errors"]?.uint64 == 0)
    }

    @Test func anImageThatIsCutReadsAsAnError() throws {
        let served = try Served(image, "attr_timeout=0")
        let descriptor = open(served.path("disk.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        try HostFiles.truncate(image, to: 1 << 20)
        #expect(throws: HostFailure.self) { try Seen.bytes(descriptor, 2 << 20, 128 << 10) }
        #expect(throws: HostFailure.self) { try Seen.bytes(descriptor, 2 << 20 + 512 << 10, 512) }
        #expect(try Seen.bytes(descriptor, 4096, 65536) == Array(content[4096..<(4096 + 65536)]))
    }
}
