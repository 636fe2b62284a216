internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// The shared images through the kernel: one mount of all of them, as a user with a directory of images has it.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason),
    .enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"), .timeLimit(.minutes(10)))
struct ManifestMountTests {
    /// Above this many bytes a disk is compared by its holes and data: its hash is checked on the driver itself.
    private static let hashedBytes: UInt64 = 1 << 30

    /// A mount of a directory with every image of the collection, served until the object goes.
    private static func serveAll() throws -> Served {
        var directory = ""
        for image in SharedImages.all where !image.isBundle {
            directory = try image.path().split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
        }
        return try Served(directory, "partitions", "snapshots", "layers")
    }

    private static func raw(_ image: SharedImage) -> String {
        image.name.hasSuffix(".raw") ? image.name : image.name + ".raw"
    }

    @Test func everyReadableImageHasItsHash() throws {
        let served = try Self.serveAll()
        var checked = 0
        for image in SharedImages.images(.equal) where image.name != "gen-luks.qcow2" {
            let path = served.path(Self.raw(image))
            let size = try #require(image.virtualSize)
            #expect(try Seen.facts(path).size == size, "\(image)")
            guard size <= Self.hashedBytes else { continue }
            let sum = try runSuccessfully("sha256sum", "--", path, timeout: 120)
            #expect(sum.hasPrefix(try #require(image.rawSHA256)), "\(image)")
            checked += 1
        }
        #expect(checked > 55, "only \(checked) images were hashed")
    }

    @Test func theDiskOf127GiBIsOneHole() throws {
        let served = try Served(try SharedImages.named("hyperv2012r2-dynamic.vhd").path())
        let descriptor = open(served.path("hyperv2012r2-dynamic.vhd.raw"), O_RDONLY)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        #expect(Seen.failure { Int32(clamping: clinux_seek_data(descriptor, 0)) } == ENXIO)
        #expect(clinux_seek_hole(descriptor, 0) == 0)
        #expect(try Seen.bytes(descriptor, 136_365_211_648 - 4096, 8192) == [UInt8](repeating: 0, count: 4096))
    }

    /// 0 is the base: each file of `.layers` has the content of the image of that level.
    @Test(arguments: [
        ["backing-chain-3.qcow2", "backing-chain-2.qcow2", "backing-chain-1.qcow2"],
        ["fat-parent.vhdx", "fat-differential.vhdx"],
        ["fat-parent.vhd", "fat-differential.vhd"],
        ["ntfs-parent.vhdx", "ntfs-differential.vhdx"],
    ])
    func layersHaveTheHashesOfTheirImages(chain: [String]) throws {
        let top = try SharedImages.named(try #require(chain.last))
        let served = try Served(try top.path(), "layers")
        for (index, name) in chain.enumerated() {
            let path = served.path("\(top.name).layers/\(index).raw")
            let sum = try runSuccessfully("sha256sum", path, timeout: 120)
            #expect(sum.hasPrefix(try #require(SharedImages.named(name).rawSHA256)), "layer \(index)")
        }
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func snapshotsAreThoseThatQemuReads() throws {
        let image = try SharedImages.named("dissect-snapshot.qcow2").path()
        let work = try TemporaryDirectory("snapshots")
        let served = try Served(image, "snapshots")
        let directory = served.path("dissect-snapshot.qcow2.snaps")
        let names = try HostFiles.list(directory)
        #expect(names.count == 2)
        for name in names {
            let id = try #require(name.split(separator: "-").first)
            let copy = work.file("snapshot.raw")
            try runSuccessfully(
                "qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.id=\(id)", "-O", "raw", image, copy)
            try runSuccessfully("cmp", copy, "\(directory)/\(name)")
        }
    }

    /// What is bad is refused or reads as an error, quickly, in little memory, and the rest goes on being served.
    @Test func badImagesHarmNobody() throws {
        let served = try Self.serveAll()
        for image in SharedImages.images(.refuse, .error, .safe) {
            let path = served.path(Self.raw(image))
            let start = monotonicSeconds()
            let failure = Self.readThrough(path, limit: 128 << 20)
            #expect(monotonicSeconds() - start < 2, "\(image)")
            if image.expect != .safe { #expect(failure == EIO, "\(image): errno \(failure)") }
        }
        let good = try SharedImages.named("dfvfs-ext2.qcow2")
        let sum = try runSuccessfully("sha256sum", served.path(Self.raw(good)))
        #expect(sum.hasPrefix(try #require(good.rawSHA256)))
        #expect(try peakKiB(of: served.process.pid) < 256 << 10)
    }

    /// The errno of opening and reading a file, at most `limit` bytes of it; 0 when all went well.
    private static func readThrough(_ path: String, limit: Int) -> Int32 {
        let descriptor = open(path, O_RDONLY)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var done = 0
        while done < limit {
            let count = read(descriptor, &buffer, buffer.count)
            if count < 0 { return errno }
            if count == 0 { return 0 }
            done += count
        }
        return 0
    }
}

/// The most memory that a process has had, in KiB (VmHWM).
func peakKiB(of pid: Int32) throws -> Int {
    let status = try HostFiles.text("/proc/\(pid)/status")
    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") })
    return try #require(line.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap { Int($0) })
}
