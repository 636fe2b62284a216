internal import Glibc
internal import TestSupport
internal import Testing

/// Reads from many threads at once, for long enough that caches fill, empty and fill again.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason),
    .enabled(if: Tool.has("qemu-img", "qemu-io"), "qemu-img or qemu-io is missing"), .timeLimit(.minutes(3)))
struct RandomReadTests {
    private static let size = 48 << 20

    /// A compressed qcow2 over a VHDX: holes, compressed clusters, plain clusters and a parent in one disk, with caches
    /// far too small for it. Half of the threads read past the page cache.
    @Test func sixteenThreadsForHalfAMinute() throws {
        let work = try TemporaryDirectory("random")
        try makeChain(in: work)
        let content = try HostFiles.read(work.file("model.raw"))
        let served = try Served(work.file("top.qcow2"), "cache-size=256K")
        let path = served.path("top.qcow2.raw")
        let end = monotonicSeconds() + 30
        try concurrently(16) { index in
            try Self.readAtRandom(path, content, thread: index, until: end)
        }
    }

    private func makeChain(in work: TemporaryDirectory) throws {
        let base = work.file("base.raw")
        try HostFiles.patch(Content.random(20 << 20, seed: 3), at: 5 << 20, of: base)
        try HostFiles.truncate(base, to: UInt64(Self.size))
        try runSuccessfully(
            "qemu-img", "convert", "-q", "-O", "vhdx", "-o", "block_size=1M", base, work.file("base.vhdx"))
        // Text compresses; what is written after the conversion does not.
        let text = [UInt8](repeating: 0, count: 8 << 20).indices.map { UInt8(truncatingIfNeeded: $0 / 7 % 251) }
        let middle = work.file("middle.raw")
        try HostFiles.patch(text, at: 0, of: middle)
        try HostFiles.truncate(middle, to: 8 << 20)
        try runSuccessfully("qemu-img", "convert", "-q", "-c", "-O", "qcow2", middle, work.file("top.qcow2"))
        try runSuccessfully("qemu-img", "resize", "-q", work.file("top.qcow2"), "\(Self.size)")
        try runSuccessfully(
            "qemu-img", "rebase", "-q", "-u", "-b", "base.vhdx", "-F", "vhdx", work.file("top.qcow2"))
        try runSuccessfully(
            "qemu-io", "-c", "write -P 17 30M 3M", "-c", "write -z 12M 1M", "-c", "write -P 9 1000k 70k",
            work.file("top.qcow2"))
        try runSuccessfully("qemu-img", "convert", "-q", "-O", "raw", work.file("top.qcow2"), work.file("model.raw"))
    }

    private static func readAtRandom(
        _ path: String, _ content: [UInt8], thread: Int, until end: Double
    ) throws {
        let unit = thread % 2 == 0 ? 512 : 1
        let descriptor = open(path, unit == 512 ? O_RDONLY | Int32(0o40000) : O_RDONLY)
        guard descriptor >= 0 else { throw HostFailure("open") }
        defer { close(descriptor) }
        var random = SeededRandom(seed: UInt64(1000 + thread))
        var space = UnsafeMutableRawPointer(bitPattern: 0)
        guard posix_memalign(&space, 4096, 2 << 20) == 0, let buffer = space else { throw HostFailure("memory") }
        defer { free(buffer) }
        while monotonicSeconds() < end {
            let offset = Int(random.next() % UInt64(content.count)) / unit * unit
            let length = max(unit, Int(random.next() % (random.next() % 8 == 0 ? 2 << 20 : 40_000)) / unit * unit)
            let got = pread(descriptor, buffer, length, off_t(offset))
            let expected = min(length, content.count - offset)
            guard got == expected, Content.isEqual(buffer, content, at: offset, count: expected) else {
                throw HostFailure("thread \(thread): \(length) bytes at \(offset) gave \(got)", errno: 0)
            }
        }
    }
}
