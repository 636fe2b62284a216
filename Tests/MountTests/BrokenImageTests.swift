internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Images of a directory that cannot be opened, and those that change.
@Suite(.serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .timeLimit(.minutes(2)))
struct BrokenImageTests {
    private let work: TemporaryDirectory
    private let source: String

    init() throws {
        work = try TemporaryDirectory("broken")
        source = work.file("source")
        try runSuccessfully("mkdir", "-p", source)
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func anImageWithoutItsParentIsAnIOErrorAndShowsMode0UntilItIsMended() throws {
        let base = source + "/base.raw"
        try HostFiles.write([UInt8](repeating: 3, count: 65536), to: base)
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", source + "/top.qcow2")
        #expect(rename(base, work.file("hidden")) == 0)
        let served = try Served(source)
        let path = served.path("top.qcow2.raw")
        #expect(try Seen.facts(path).mode & 0o7777 == 0o444)
        #expect(Seen.openFailure(path, O_RDONLY) == EIO)
        #expect(try Seen.soon { try Seen.facts(path).mode & 0o7777 == 0 })
        #expect(rename(work.file("hidden"), base) == 0)
        #expect(try Seen.soon { try Seen.facts(path).mode & 0o7777 == 0o444 })
        #expect(try HostFiles.read(path) == [UInt8](repeating: 3, count: 65536))
        served.process.signal(SIGTERM)
        let said = served.process.wait(timeout: 10).errors.split(separator: "\n").filter { $0.contains("base.raw") }
        #expect(said.count == 1 && said.allSatisfy { $0.contains("top.qcow2") }, "\(said)")
    }

    @Test func aChangeThatOneViewMeetsIsNewsToAllOthers() throws {
        // A raw disk with one MBR partition of 1 MiB at 1 MiB.
        var sector = [UInt8](repeating: 0, count: 512)
        sector.replaceSubrange(446..<462, with: [0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0])
        (sector[510], sector[511]) = (0x55, 0xAA)
        let path = try work.write(sector, to: "disk.raw")
        try HostFiles.patch([UInt8](repeating: 1, count: 4096), at: 1 << 20, of: path)
        try HostFiles.truncate(path, to: 4 << 20)
        let served = try Served(path, "partitions")
        func first(_ name: String, at offset: Int) throws -> UInt8 {
            let descriptor = open(served.path(name), O_RDONLY)
            defer { close(descriptor) }
            return try Seen.bytes(descriptor, offset, 4096)[0]
        }
        #expect(try first("disk.raw", at: 1 << 20) == 1)
        #expect(try first("disk.raw.parts/p1.raw", at: 0) == 1)
        usleep(20_000)
        try HostFiles.patch([UInt8](repeating: 2, count: 4096), at: 1 << 20, of: path)
        #expect(try first("disk.raw.parts/p1.raw", at: 0) == 2)
        #expect(try first("disk.raw", at: 1 << 20) == 2)
    }

    @Test func anImageThatGrowsShowsItsNewSizeAndTime() throws {
        let path = try work.write([UInt8](repeating: 1, count: 4096), to: "disk.raw")
        let served = try Served(path)
        #expect(try Seen.facts(served.path("disk.raw")).size == 4096)
        usleep(20_000)
        try HostFiles.write([UInt8](repeating: 2, count: 8192), to: path)
        #expect(Seen.openFailure(served.path("disk.raw"), O_RDONLY) == 0)
        #expect(try Seen.soon { try Seen.facts(served.path("disk.raw")).size == 8192 })
        #expect(
            try Seen.soon { try Seen.facts(served.path("disk.raw")).modify_ns == Seen.facts(path).modify_ns })
        #expect(try HostFiles.read(served.path("disk.raw")) == [UInt8](repeating: 2, count: 8192))
    }

    @Test(.enabled(if: Fuse.isRoot, "only root's mounts are open to others by default"))
    func aMountForAllOpensNoImageOfOneUser() throws {
        let path = try work.write([UInt8](repeating: 1, count: 4096), to: "disk.raw")
        #expect(chmod(path, 0o600) == 0)
        let served = try Served(path)
        #expect(try Seen.facts(served.path("disk.raw")).mode & 0o7777 == 0o400)
        let wide = try Served(path, "umask=0")
        #expect(try Seen.facts(wide.path("disk.raw")).mode & 0o7777 == 0o444)
        let own = try Served(path, "noallow_other")
        #expect(try Seen.facts(own.path("disk.raw")).mode & 0o7777 == 0o444)
    }

    @Test(.enabled(if: Fuse.isRoot, "only root's mounts are open to others by default"))
    func aMountForAllOpensNoClosedDirectory() throws {
        let (closed, inner) = (work.file("closed"), work.file("closed/inner"))
        for directory in [closed, inner] { #expect(mkdir(directory, 0o755) == 0) }
        let path = inner + "/disk.raw"
        try HostFiles.write([UInt8](repeating: 1, count: 4096), to: path)
        #expect(chmod(path, 0o644) == 0)
        do {
            let open = try Served(path)
            #expect(try Seen.facts(open.path("disk.raw")).mode & 0o7777 == 0o444)
        }
        #expect(chmod(closed, 0o700) == 0)
        let served = try Served(path)
        #expect(try Seen.facts(served.path("disk.raw")).mode & 0o7777 == 0o400)
        #expect(chmod(closed, 0o755) == 0 && chmod(inner, 0o700) == 0)
        let directory = try Served(closed)
        #expect(try Seen.facts(directory.path("inner")).mode & 0o7777 == 0o500)
    }

    /// The parent lies on a mount whose server is stopped: opening waits for it, attributes and other images do not.
    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func aSlowImageKeepsNobodyElseWaiting() throws {
        let parent = try work.write([UInt8](repeating: 5, count: 1 << 20), to: "parent.raw")
        let slow = try Served(parent)
        let base = slow.path("parent.raw")
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", source + "/top.qcow2")
        try HostFiles.write([UInt8](repeating: 6, count: 4096), to: source + "/fast.raw")
        let served = try Served(source, "allow-parents=\(slow.mountpoint)")
        #expect(try HostFiles.list(served.mountpoint) == [".platter", "fast.raw", "top.qcow2.raw"])
        slow.process.signal(SIGSTOP)
        defer { slow.process.signal(SIGCONT) }
        usleep(1_200_000)
        let reader = try ChildProcess("cat", [served.path("top.qcow2.raw")], outputFile: "/dev/null")
        usleep(300_000)
        let others = try run(
            "sh", "-c", "stat \"$0/top.qcow2.raw\" && cat \"$0/fast.raw\" \"$0/.platter/status.json\"",
            served.mountpoint, timeout: 5)
        #expect(others.succeeded && reader.isRunning, "\(others)")
        slow.process.signal(SIGCONT)
        #expect(reader.wait(timeout: 20).succeeded)
    }

    @Test func readsThroughViewsAreCounted() throws {
        let path = try work.write([UInt8](repeating: 1, count: 65536), to: "disk.raw")
        let served = try Served(path, "layers")
        #expect(try HostFiles.read(served.path("disk.raw.layers/0.raw")).count == 65536)
        let status = try JSON(parsing: HostFiles.read(served.path(".platter/status.json")))
        #expect(status["images"]?.array?.first?["bytes"]?.int == 65536)
    }

    @Test func statfsTellsOfTheHost() throws {
        let path = try work.write([UInt8](repeating: 1, count: 4096), to: "disk.raw")
        let served = try Served(path)
        var (ours, host) = (statvfs(), statvfs())
        try #require(statvfs(served.mountpoint, &ours) == 0 && statvfs(path, &host) == 0)
        #expect((4096...65536).contains(ours.f_bsize))
        #expect(ours.f_blocks > 0 && ours.f_bfree > 0 && ours.f_bfree <= ours.f_blocks)
        let total = UInt64(host.f_blocks) * UInt64(host.f_frsize)
        #expect(UInt64(ours.f_blocks) == total / UInt64(ours.f_frsize))
    }

    @Test func everyThreadIsRestricted() throws {
        let path = try work.write([UInt8](repeating: 1, count: 4096), to: "disk.raw")
        let served = try Served(path)
        _ = try HostFiles.read(served.path("disk.raw"))
        let tasks = "/proc/\(served.process.pid)/task"
        #expect(try Seen.soon { try HostFiles.list(tasks).count >= 4 })
        let threads = try HostFiles.list(tasks)
        for thread in threads {
            let status = try HostFiles.text("\(tasks)/\(thread)/status")
            func field(_ name: String) -> String? {
                status.split(separator: "\n").first { $0.hasPrefix(name + ":") }?
                    .split(whereSeparator: { $0 == "\t" || $0 == " " }).last.map(String.init)
            }
            #expect(field("NoNewPrivs") == "1")
            #expect(field("Seccomp") == "2")
            // At most CAP_DAC_READ_SEARCH, bit 2.
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                let bits = try #require(UInt64(field(set) ?? "", radix: 16))
                #expect(bits & ~4 == 0, "\(set) of \(thread)")
            }
        }
    }
}
