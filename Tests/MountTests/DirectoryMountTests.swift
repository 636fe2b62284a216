internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// A directory of images: what it shows, and that it follows what happens to them.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(3)))
struct DirectoryMountTests {
    private let work: TemporaryDirectory
    private let source: String

    init() throws {
        work = try TemporaryDirectory("tree")
        source = work.file("source")
        try runSuccessfully("mkdir", "-p", source + "/sub")
        try HostFiles.write([UInt8](repeating: 1, count: 8192), to: source + "/one.raw")
    }

    @Test func onlyImagesAreShown() throws {
        try HostFiles.write(Array("notes".utf8), to: source + "/notes.txt")
        try HostFiles.write([UInt8](repeating: 2, count: 4096), to: source + "/sub/two.img")
        try HostFiles.write([], to: source + "/sub/broken.vhdx")
        let served = try Served(source)
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "one.raw", "sub"])
        #expect(try HostFiles.list(served.path("sub")) == ["broken.vhdx.raw", "two.img.raw"])
        try runSuccessfully("cmp", source + "/sub/two.img", served.path("sub/two.img.raw"))
        #expect(try Seen.facts(served.path("sub/broken.vhdx.raw")).mode & 0o7777 == 0)
        let expected = Fuse.isRoot ? EIO : EACCES
        #expect(Seen.openFailure(served.path("sub/broken.vhdx.raw"), O_RDONLY) == expected)
        #expect(Seen.openFailure(served.path("notes.txt"), O_RDONLY) == ENOENT)
        #expect(Seen.openFailure(served.path("notes.txt.raw"), O_RDONLY) == ENOENT)
        #expect(Seen.openFailure(served.path("sub/two.img"), O_RDONLY) == ENOENT)
    }

    @Test func changesShowWithoutARemount() throws {
        let served = try Served(source)
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "one.raw", "sub"])
        #expect(try HostFiles.read(served.path("one.raw")) == [UInt8](repeating: 1, count: 8192))
        // New.
        try HostFiles.write([UInt8](repeating: 3, count: 4096), to: source + "/new.raw")
        #expect(try Seen.soon { try HostFiles.list(served.mountpoint).contains("new.raw") })
        #expect(try HostFiles.read(served.path("new.raw")) == [UInt8](repeating: 3, count: 4096))
        // Changed in place, size and all.
        try HostFiles.write([UInt8](repeating: 4, count: 12288), to: source + "/new.raw")
        #expect(
            Seen.soon { (try? HostFiles.read(served.path("new.raw"))) == [UInt8](repeating: 4, count: 12288) })
        #expect(try Seen.facts(served.path("new.raw")).size == 12288)
        // Replaced by another file of the same size: another node.
        let before = try Seen.facts(served.path("one.raw")).inode
        try HostFiles.write([UInt8](repeating: 5, count: 8192), to: work.file("other"))
        #expect(rename(work.file("other"), source + "/one.raw") == 0)
        #expect(Seen.soon { (try? HostFiles.read(served.path("one.raw"))) == [UInt8](repeating: 5, count: 8192) })
        #expect(try Seen.facts(served.path("one.raw")).inode != before)
        // Moved and removed.
        #expect(rename(source + "/new.raw", source + "/sub/moved.raw") == 0)
        #expect(Seen.soon { Seen.openFailure(served.path("new.raw"), O_RDONLY) == ENOENT })
        #expect(try HostFiles.read(served.path("sub/moved.raw")) == [UInt8](repeating: 4, count: 12288))
        #expect(unlink(source + "/sub/moved.raw") == 0)
        #expect(Seen.soon { Seen.openFailure(served.path("sub/moved.raw"), O_RDONLY) == ENOENT })
        // A directory.
        #expect(rename(source + "/sub", source + "/renamed") == 0)
        try HostFiles.write([UInt8](repeating: 6, count: 512), to: source + "/renamed/six.raw")
        #expect(
            Seen.soon { (try? HostFiles.read(served.path("renamed/six.raw"))) == [UInt8](repeating: 6, count: 512) })
    }

    @Test func aVanishedImageIsReadToItsEnd() throws {
        let bytes = Content.random(4 << 20, seed: 31)
        try HostFiles.write(bytes, to: source + "/big.raw")
        let served = try Served(source)
        let descriptor = open(served.path("big.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        #expect(unlink(source + "/big.raw") == 0)
        #expect(try Seen.soon { try !HostFiles.list(served.mountpoint).contains("big.raw") })
        #expect(try Seen.bytes(descriptor, 0, bytes.count) == bytes)
        var facts = clinux_file_facts()
        #expect(clinux_facts(descriptor, &facts) == 0 && facts.size == UInt64(bytes.count))
    }

    @Test func namesAreBytes() throws {
        let name: [UInt8] = [0x66, 0xFF, 0x0A, 0x20, 0x2C, 0x2E] + Array("raw".utf8)
        func open(_ directory: String, _ flags: Int32) -> Int32 {
            (Array("\(directory)/".utf8) + name + [0]).withUnsafeBytes {
                clinux_open_at(AT_FDCWD, $0.baseAddress?.assumingMemoryBound(to: CChar.self), flags)
            }
        }
        try HostFiles.write([UInt8](repeating: 8, count: 4096), to: source + "/plain")
        let made = (Array("\(source)/".utf8) + name + [0]).withUnsafeBytes {
            rename(source + "/plain", $0.baseAddress?.assumingMemoryBound(to: CChar.self))
        }
        try #require(made == 0)
        let served = try Served(source)
        let descriptor = open(served.mountpoint, O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        #expect(try Seen.bytes(descriptor, 0, 4096) == [UInt8](repeating: 8, count: 4096))
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func aNeighbourKeepsItsName() throws {
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", source + "/one", "1M")
        let served = try Served(source)
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "one.raw", "one.raw.1", "sub"])
        #expect(try Seen.facts(served.path("one.raw")).size == 8192)
        #expect(try Seen.facts(served.path("one.raw.1")).size == 1 << 20)
        #expect(unlink(source + "/one.raw") == 0)
        #expect(Seen.soon { (try? Seen.facts(served.path("one.raw")))?.size == 1 << 20 })
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "one.raw", "sub"])
    }

    @Test func aListingThatIsBeingReadStaysWhole() throws {
        for index in 0..<500 { try HostFiles.write([1], to: source + "/image-\(index).raw") }
        let served = try Served(source)
        let directory = try #require(opendir(served.mountpoint))
        defer { closedir(directory) }
        var seen: [String: Int] = [:]
        func next() -> Bool {
            guard let entry = readdir(directory) else { return false }
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            seen[name, default: 0] += 1
            return true
        }
        for _ in 0..<50 { _ = next() }
        for index in stride(from: 0, to: 500, by: 2) { unlink(source + "/image-\(index).raw") }
        for index in 0..<100 { try HostFiles.write([1], to: source + "/later-\(index).raw") }
        while next() {}
        for index in stride(from: 1, to: 500, by: 2) { #expect(seen["image-\(index).raw"] == 1) }
        #expect(seen.values.allSatisfy { $0 == 1 })
    }

    @Test func aDirectoryWithoutImagesIsRefused() throws {
        #expect(unlink(source + "/one.raw") == 0)
        let result = try run(Served.program, "mount", "-f", source, try mountpoint(), timeout: 20)
        #expect(result.status == 32 && result.errors.contains(source), "\(result)")
    }

    private func mountpoint() throws -> String {
        let path = work.file("point")
        guard mkdir(path, 0o755) == 0 else { throw HostFailure("mkdir") }
        return path
    }

    @Test func tenThousandImagesAreListedInTime() throws {
        // The smallest thing that is an image: a qcow2 header of version 2 for a disk of 1 MiB.
        var header = [UInt8](repeating: 0, count: 72)
        header.replaceSubrange(0..<8, with: [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 2])
        header[23] = 16
        header[29] = 0x10
        header[39] = 1
        header[45] = 1
        for index in 0..<10_000 { try HostFiles.write(header, to: source + "/vm-\(index).qcow2") }
        let served = try Served(source)
        let start = monotonicSeconds()
        let result = try run("ls", "-l", served.mountpoint, timeout: 60)
        let seconds = monotonicSeconds() - start
        #expect(result.succeeded)
        #expect(result.text.split(separator: "\n").count == 10_003)
        #expect(seconds < 3, "ls -l took \(seconds) s")
        let pid = served.process.pid
        #expect(try HostFiles.list("/proc/\(pid)/fd").count < 40)
        let memory = try HostFiles.text("/proc/\(pid)/status").split(separator: "\n").first { $0.hasPrefix("VmRSS") }
        let kilobytes = memory?.split(separator: " ").compactMap { Int($0) }.first
        #expect(try #require(kilobytes) < 150 << 10, "\(memory ?? "")")
    }
}
