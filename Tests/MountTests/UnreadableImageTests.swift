internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Files of a directory that could be two things, are damaged, or are in use: listed, named in the log and in the status.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(2)))
struct UnreadableImageTests {
    private let work: TemporaryDirectory
    private let source: String
    /// The smallest thing that is an image: a qcow2 header of version 2 for a disk of 1 MiB.
    private let header: [UInt8]

    init() throws {
        work = try TemporaryDirectory("unreadable")
        source = work.file("source")
        try runSuccessfully("mkdir", "-p", source + "/sub")
        var header = [UInt8](repeating: 0, count: 3 << 16)
        header.replaceSubrange(0..<8, with: [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 2])
        (header[23], header[29], header[39], header[45], header[53], header[59]) = (16, 0x10, 1, 1, 2, 1)
        self.header = header
    }

    private func status(_ served: Served) throws -> JSON {
        try JSON(parsing: HostFiles.read(served.path(".platter/status.json")))
    }

    private func broken(_ served: Served) throws -> [String: String] {
        let entries = try #require(try status(served)["broken"]?.array)
        return Dictionary(uniqueKeysWithValues: entries.map { ($0["path"]?.string ?? "", $0["error"]?.string ?? "") })
    }

    private func isShut(_ served: Served, _ name: String) throws -> Bool {
        let failure = Seen.openFailure(served.path(name), O_RDONLY)
        return try Seen.facts(served.path(name)).mode & 0o7777 == 0 && failure == (Fuse.isRoot ? EIO : EACCES)
    }

    @Test func eachIsListedShutNamedOnceAndInTheStatus() throws {
        let bad: [(name: String, bytes: [UInt8], words: String)] = [
            ("cloud.img", header, "-o format=qcow2:cloud.img or -o format=raw:cloud.img"),
            ("zeros.vhdx", [UInt8](repeating: 0, count: 8192), "the beginning of the file is zeros"),
            ("sub/cut.VHD", [UInt8](repeating: 7, count: 8192), "no footer at its end: truncated?"),
            ("page.qcow2", Array("<html>404</html>".utf8), "HTML"),
            ("packed.qcow2", [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0, 1, 2], "xz"),
            ("box.raw", Array("KDMV".utf8) + header.dropFirst(4), "VMDK"),
        ]
        for (name, bytes, _) in bad { try HostFiles.write(bytes, to: "\(source)/\(name)") }
        try HostFiles.write(header, to: source + "/good.qcow2")
        // Packed files and other programs' images that are called so are no images, and not shown.
        try HostFiles.write(bad[4].bytes, to: source + "/packed.qcow2.xz")
        try HostFiles.write(Array("KDMV".utf8), to: source + "/box.vmdk")
        let served = try Served(source)
        #expect(
            try HostFiles.list(served.mountpoint) == [
                ".platter", "box.raw", "cloud.img.raw", "good.qcow2.raw", "packed.qcow2.raw", "page.qcow2.raw", "sub",
                "zeros.vhdx.raw",
            ])
        #expect(try HostFiles.list(served.path("sub")) == ["cut.VHD.raw"])
        for (name, _, _) in bad {
            for _ in 0..<2 { #expect(try isShut(served, name == "box.raw" ? name : name + ".raw"), "\(name)") }
        }
        let broken = try broken(served)
        #expect(broken.count == bad.count && broken["\(source)/good.qcow2"] == nil)
        for (name, _, words) in bad {
            let error = try #require(broken["\(source)/\(name)"], "\(name)")
            #expect(error.contains(words) && !error.contains(source), "\(error)")
        }
        #expect(try status(served)["moreBroken"]?.bool == false)
        served.process.signal(SIGTERM)
        let log = served.process.wait(timeout: 10).errors.split(separator: "\n")
        for (name, _, words) in bad {
            let lines = log.filter { $0.contains("\(source)/\(name): ") }
            #expect(lines.count == 1 && lines.allSatisfy { $0.contains(words) }, "\(name): \(lines)")
        }
    }

    @Test func oneThatIsMendedIsBrokenNoMore() throws {
        try HostFiles.write([0] + header.dropFirst(), to: source + "/disk.qcow2")
        let served = try Served(source)
        #expect(try isShut(served, "disk.qcow2.raw"))
        #expect(try broken(served).count == 1)
        try HostFiles.patch([0x51], at: 0, of: source + "/disk.qcow2")
        #expect(try Seen.soon { try Seen.facts(served.path("disk.qcow2.raw")).mode & 0o7777 == 0o444 })
        #expect(Seen.openFailure(served.path("disk.qcow2.raw"), O_RDONLY) == 0)
        #expect(try broken(served).isEmpty)
        // And one that goes away is no more either.
        try HostFiles.write([1, 2, 3], to: source + "/other.vhdx")
        #expect(try Seen.soon { try HostFiles.list(served.mountpoint).contains("other.vhdx.raw") })
        #expect(try broken(served).count == 1)
        unlink(source + "/other.vhdx")
        #expect(try broken(served).isEmpty)
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func oneWhoseParentIsMissingIsNamedOnceThatIsKnown() throws {
        let child = source + "/child \"1\".qcow2"
        try runSuccessfully("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "gone", child, "1M")
        let served = try Served(source)
        #expect(try broken(served).isEmpty)
        #expect(Seen.openFailure(served.path("child \"1\".qcow2.raw"), O_RDONLY) == EIO)
        #expect(try broken(served)[child]?.contains("\(source)/gone") == true)
        try HostFiles.write([1], to: source + "/gone")
        #expect(Seen.soon { Seen.openFailure(served.path("child \"1\".qcow2.raw"), O_RDONLY) == 0 })
        #expect(try broken(served).isEmpty)
    }

    /// What is wrong with an image can tell of files that others may not look for.
    @Test(.enabled(if: Fuse.isRoot && Tool.has("setpriv"), "needs root, whose mounts are open to all, and setpriv"))
    func onlyTheOwnerOfTheMountLearnsWhatIsWrong() throws {
        try HostFiles.write(header, to: source + "/cloud.img")
        let served = try Served(source)
        #expect(try HostFiles.list(served.mountpoint).contains("cloud.img.raw"))
        let file = served.path(".platter/status.json")
        let other = try run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "cat", file)
        #expect(other.succeeded, "\(other)")
        let seen = try JSON(parsing: other.output)
        #expect(seen["source"]?.string == source && seen["broken"] == nil && !other.text.contains("cloud"))
        #expect(try broken(served).count == 1)
    }

    @Test func manyAreBoundedInLogAndStatus() throws {
        for index in 0..<400 { try HostFiles.write(header, to: source + "/vm-\(index).img") }
        let served = try Served(source)
        #expect(try HostFiles.list(served.mountpoint).count == 402)
        #expect(try broken(served).count == 256)
        #expect(try status(served)["moreBroken"]?.bool == true)
        served.process.signal(SIGTERM)
        let log = served.process.wait(timeout: 10).errors.split(separator: "\n").filter { $0.contains("/vm-") }
        #expect(log.count == 101, "\(log.count)")
    }

    // MARK: - In use

    @Test(.enabled(if: Tool.has("qemu-img", "qemu-io"), "qemu-img or qemu-io is missing"))
    func oneThatAnotherProgramHoldsIsBusyAndNotBroken() throws {
        let path = source + "/live.qcow2"
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
        let served = try Served(source)
        let shown = served.path("live.qcow2.raw")
        let qemu = try ChildProcess("qemu-io", ["-f", "qcow2", "-c", "sleep 30000", path])
        defer { qemu.stop() }
        // A lock of ours that came first would keep qemu out.
        let inode = try Seen.facts(path).inode
        #expect(try Seen.soon(within: 10) { try HostFiles.text("/proc/locks").contains(":\(inode) 103 103") })
        #expect(Seen.openFailure(shown, O_RDONLY) == EBUSY)
        #expect(try Seen.facts(shown).mode & 0o7777 == 0o444)
        #expect(try broken(served).isEmpty)
        qemu.stop()
        #expect(Seen.soon { Seen.openFailure(shown, O_RDONLY) == 0 })
        served.process.signal(SIGTERM)
        let log = served.process.wait(timeout: 10).errors.split(separator: "\n").filter { $0.contains(path) }
        // The server has given up the right to look into others' processes, and does not take itself for the holder.
        #expect(log.count == 1 && log.allSatisfy { $0.contains("another program") }, "\(log)")
        #expect(log.allSatisfy { !$0.contains("this server") }, "\(log)")
        #expect(log.allSatisfy { $0.contains("(pid \(qemu.pid))") || $0.contains("fuser") }, "\(log)")
    }

    // MARK: - The user's word

    @Test func theFormatIsSaidForNamesAndPatterns() throws {
        try HostFiles.write(header, to: source + "/cloud.img")
        try HostFiles.write(header, to: source + "/sub/tape.img")
        try HostFiles.write(header, to: source + "/sub/other.raw")
        let served = try Served(source, "format=raw:ta?e.*", "format=qcow2:*.img")
        #expect(try HostFiles.read(served.path("cloud.img.raw")) == [UInt8](repeating: 0, count: 1 << 20))
        #expect(try HostFiles.read(served.path("sub/tape.img.raw")) == header)
        #expect(try isShut(served, "sub/other.raw"))
        // A pattern is more exact than the word about all images.
        let all = try Served(source, "format=raw", "format=qcow2:c*")
        #expect(try Seen.facts(all.path("cloud.img.raw")).size == 1 << 20)
        #expect(try HostFiles.read(all.path("sub/other.raw")) == header)
    }

    @Test func aPatternFitsNamesThatAreNoText() throws {
        let name: [UInt8] = [0x66, 0xFF] + Array(".img".utf8)
        try HostFiles.write(header, to: source + "/plain")
        let made = (Array("\(source)/".utf8) + name + [0]).withUnsafeBytes {
            rename(source + "/plain", $0.baseAddress?.assumingMemoryBound(to: CChar.self))
        }
        try #require(made == 0)
        func read(_ served: Served) throws -> [UInt8]? {
            let path = Array("\(served.mountpoint)/".utf8) + name + Array(".raw".utf8) + [0]
            let descriptor = path.withUnsafeBytes {
                clinux_open_at(AT_FDCWD, $0.baseAddress?.assumingMemoryBound(to: CChar.self), O_RDONLY)
            }
            guard descriptor >= 0 else { return nil }
            defer { close(descriptor) }
            return try Seen.bytes(descriptor, 0, 2 << 20)
        }
        #expect(try read(Served(source)) == nil)
        #expect(try read(Served(source, "format=qcow2:f?.img")) == [UInt8](repeating: 0, count: 1 << 20))
        #expect(try read(Served(source, "format=raw:*")) == header)
    }

    // MARK: - Evidence

    @Test(.enabled(if: AccessTime.isKept, "the filesystem keeps no access times"))
    func readingADirectoryOfImagesLeavesAccessTimesAlone() throws {
        let files = ["disk.qcow2", "sub/disk.raw", "sub/broken.vhdx"].map { "\(source)/\($0)" }
        for path in files { try HostFiles.write(path.hasSuffix("qcow2") ? header : [1, 2, 3], to: path) }
        for path in files + [source, source + "/sub"] { try AccessTime.makeOld(path) }
        let served = try Served(source)
        #expect(try HostFiles.read(served.path("disk.qcow2.raw")).count == 1 << 20)
        #expect(try HostFiles.read(served.path("sub/disk.raw")) == [1, 2, 3])
        #expect(try HostFiles.list(served.path("sub")).count == 2)
        #expect(try isShut(served, "sub/broken.vhdx.raw"))
        for path in files + [source, source + "/sub"] { #expect(AccessTime.isOld(path), "\(path)") }
    }
}
