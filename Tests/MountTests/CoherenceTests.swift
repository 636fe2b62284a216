internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// The same bytes through several files of a writable mount.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(3)))
struct CoherenceTests {
    private let work: TemporaryDirectory
    private static let start = 1 << 20
    private static let length = 2 << 20

    init() throws { work = try TemporaryDirectory("coherence") }

    /// A raw disk of 4 MiB with one MBR partition of 2 MiB at 1 MiB, mounted for writing with its views.
    private func served(_ more: String = "partitions") throws -> (Served, whole: String, part: String) {
        var sector = [UInt8](repeating: 0, count: 512)
        let entry: [UInt8] = [0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]
        sector.replaceSubrange(446..<462, with: entry)
        (sector[510], sector[511]) = (0x55, 0xAA)
        let path = try work.write(sector, to: "disk.raw")
        try HostFiles.truncate(path, to: 4 << 20)
        let served = try Served.writable(path, "partitions", "layers", more)
        return (served, served.path("disk.raw"), served.path("disk.raw.parts/p1.raw"))
    }

    @Test func aWriteThroughOneFileIsReadThroughTheOthers() throws {
        let (served, wholePath, partPath) = try served()
        #expect(try Seen.facts(partPath).mode & 0o7777 == 0o644)
        let (whole, part) = (try OpenedFile(wholePath), try OpenedFile(partPath))
        let layer = try OpenedFile(served.path("disk.raw.layers/0.raw"), O_RDONLY)
        #expect(Seen.openFailure(served.path("disk.raw.layers/0.raw"), O_RDWR) == EROFS)
        var random = SeededRandom(seed: 6)
        for round in 0..<300 {
            let bytes = Content.random(8 * (1 + Int(random.next() % 4000)), seed: random.next())
            let offset = Int(random.next() % UInt64(Self.length - bytes.count))
            // Fills the page cache with what is about to change.
            _ = try whole.read(bytes.count, at: Self.start + offset)
            if round % 2 == 0 {
                try part.write(bytes, at: offset)
            } else {
                try whole.write(bytes, at: Self.start + offset)
            }
            #expect(try whole.read(bytes.count, at: Self.start + offset) == bytes)
            #expect(try part.read(bytes.count, at: offset) == bytes)
            #expect(try layer.read(bytes.count, at: Self.start + offset) == bytes)
            if round % 10 == 9 {
                try part.allocate(round % 20 == 9 ? 3 : 17, at: offset, count: bytes.count)
                #expect(try whole.read(bytes.count, at: Self.start + offset).allSatisfy { $0 == 0 })
                try whole.allocate(3, at: Self.start, count: 5000)
                #expect(try part.read(5000, at: 0).allSatisfy { $0 == 0 })
            }
        }
        #expect(
            try HostFiles.read(partPath) == Array(HostFiles.read(wholePath)[Self.start..<(Self.start + Self.length)]))
    }

    @Test func aMappingOfTheWholeDiskAgreesWithThePartition() throws {
        let (served, wholePath, partPath) = try served()
        let (whole, part) = (try OpenedFile(wholePath), try OpenedFile(partPath))
        let map = try #require(mmap(nil, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, whole.descriptor, 0))
        try #require(map != MAP_FAILED)
        defer { munmap(map, 4 << 20) }
        let shared = mmap(nil, 4096, PROT_READ, MAP_SHARED, part.descriptor, 0)
        #expect(shared == MAP_FAILED && errno == ENODEV)
        for round in 0..<100 {
            let place = Self.start + round * 5000
            memset(map + place, Int32(round + 1), 100)
            #expect(msync(map, 4 << 20, MS_SYNC) == 0)
            #expect(try part.read(100, at: place - Self.start) == [UInt8](repeating: UInt8(round + 1), count: 100))
            // Dirty bytes of the same page are not lost when the partition is written beside them.
            memset(map + place + 200, 0xEE, 8)
            try part.write([UInt8](repeating: 0x11, count: 50), at: place - Self.start + 100)
            let seen = UnsafeRawBufferPointer(start: map + place, count: 208)
            #expect(seen[100..<150].allSatisfy { $0 == 0x11 } && seen[200..<208].allSatisfy { $0 == 0xEE })
            // They may lie in the next page, which the write had no part in.
            #expect(msync(map, 4 << 20, MS_SYNC) == 0)
            #expect(try part.read(8, at: place - Self.start + 200) == [UInt8](repeating: 0xEE, count: 8))
        }
        withExtendedLifetime(served) {}
    }

    @Test func writesPastTheCacheAreSeenInIt() throws {
        let (served, path, partPath) = try served()
        let direct = try OpenedFile(path, O_RDWR | Seen.direct)
        for round in 0..<40 {
            // With and without a reader whose pages could be old; and by a reader that comes afterwards.
            let cached = round % 2 == 0 ? try OpenedFile(path) : nil
            _ = try cached?.read(1 << 20, at: 1 << 20)
            let bytes = Content.random(8192, seed: UInt64(round))
            let space = try Seen.aligned(bytes)
            defer { free(space) }
            #expect(pwrite(direct.descriptor, space, 8192, off_t(Self.start + round * 8192)) == 8192)
            let reader = try cached ?? OpenedFile(path, O_RDONLY)
            #expect(try reader.read(8192, at: Self.start + round * 8192) == bytes)
            // A partition written while nobody has the whole disk open through the cache.
            reader.close()
            cached?.close()
            let part = try OpenedFile(partPath)
            try part.write(Array(bytes.reversed()), at: round * 8192)
            #expect(try OpenedFile(path).read(8192, at: Self.start + round * 8192) == Array(bytes.reversed()))
        }
        withExtendedLifetime(served) {}
    }

    @Test(.enabled(if: Fuse.isRoot, "a mount that hangs can only be ended by root"))
    func aStormOfWritersThroughAllFilesEnds() throws {
        let (served, wholePath, partPath) = try served("threads=2")
        let deadline = monotonicSeconds() + 6
        try concurrently(10) { index in
            let isWhole = index % 2 == 0
            let isDirect = index % 5 == 0
            let file = try OpenedFile(isWhole ? wholePath : partPath, O_RDWR | (isDirect ? Seen.direct : 0))
            var random = SeededRandom(seed: UInt64(index))
            let space = try Seen.aligned(Content.random(64 << 10, seed: UInt64(index)))
            defer { free(space) }
            while monotonicSeconds() < deadline {
                let count = isDirect ? 4096 * (1 + Int(random.next() % 16)) : 1 + Int(random.next() % (64 << 10))
                let place = Int(random.next() % UInt64(Self.length - count))
                let offset = (isWhole ? Self.start : 0) + (isDirect ? place / 4096 * 4096 : place)
                let done: Int
                switch random.next() % 8 {
                case 0: done = clinux_fallocate(file.descriptor, 3, Int64(offset), Int64(count)) == 0 ? count : -1
                case 1, 2: done = pread(file.descriptor, space, count, off_t(offset))
                default: done = pwrite(file.descriptor, space, count, off_t(offset))
                }
                guard done == count else { throw HostFailure("thread \(index): \(done) of \(count) at \(offset)") }
            }
        }
        #expect(
            try HostFiles.read(partPath) == Array(HostFiles.read(wholePath)[Self.start..<(Self.start + Self.length)]))
        #expect(try served.unmount() == 0)
    }
}
