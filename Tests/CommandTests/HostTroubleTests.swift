import Glibc
import TestSupport
import Testing

/// Servers whose system calls fail or are slow, by strace's hand.
@Suite(
    .serialized, .enabled(if: FUSE.isThereForRoot, "\(FUSE.skipReason)"),
    .enabled(if: Traced.isUsable, Traced.skipReason))
struct HostTroubleTests {
    private let playground: Playground

    init() throws { playground = try Playground() }

    private func created(_ arguments: String...) throws -> String {
        let path = playground.directory.file("image.qcow2")
        let result = try ChildProcess(
            Product.path, ["create", "-q"] + arguments.dropLast() + [path, arguments.last ?? ""]
        )
        .wait()
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        return path
    }

    private var disk: String { playground.mountpoint + "/image.qcow2.raw" }

    /// A filesystem that drops pages for want of room says so to whoever asks it to write them out, and to nobody else.
    @Test(arguments: ["EIO", "ENOSPC", "EDQUOT", "ENOMEM"])
    func whatEarlyWritebackLosesFailsTheNextBarrier(_ code: String) throws {
        let image = try created("256M")
        let log = playground.directory.file("trace")
        let server = try ChildProcess(
            "strace",
            [
                "-f", "-qq", "-o", log, "-e", "trace=sync_file_range", "-e", "inject=sync_file_range:error=\(code)",
                Product.path, "-f", "-w", image, playground.mountpoint,
            ])
        #expect(playground.eventually { access(disk, F_OK) == 0 })
        let descriptor = open(disk, O_RDWR | O_CLOEXEC)
        try #require(descriptor >= 0)
        let piece = [UInt8](repeating: 0x62, count: 1 << 20)
        var hasFailed = false
        // The host is asked now and then, when much was written: write until it was.
        for index in 0..<2000 where !hasFailed {
            hasFailed = pwrite(descriptor, piece, piece.count, off_t(index % 240) << 20) < 0
            if index % 16 == 15, try HostFiles.text(log).contains("INJECTED") { break }
            if index >= 240 { usleep(10_000) }
        }
        #expect(try HostFiles.text(log).contains("INJECTED"))
        #expect(fsync(descriptor) < 0 || hasFailed)
        close(descriptor)
        server.stop(SIGTERM)
        _ = server.wait(timeout: 20)
    }

    /// The page that waits in a pipe for the reader of a layer must not become another block meanwhile.
    @Test func aLayerThatIsReadKeepsItsSpace() throws {
        let image = try created("-o", "cluster_size=512", "1M")
        let server = try ChildProcess(Product.path, ["-f", "-w", "-o", "layers", image, playground.mountpoint])
        #expect(playground.eventually { access(disk, F_OK) == 0 })
        let (first, second, count) = (off_t(0), off_t(512 << 10), 16_384)
        let descriptor = open(disk, O_RDWR | O_CLOEXEC)
        let view = open(playground.mountpoint + "/image.qcow2.layers/0.raw", O_RDONLY | O_CLOEXEC)
        try #require(descriptor >= 0 && view >= 0)
        #expect(pwrite(descriptor, [UInt8](repeating: 0x41, count: count), count, first) == count)
        #expect(fsync(descriptor) == 0)
        let tracer = try ChildProcess(
            "strace",
            [
                "-f", "-q", "-o", "/dev/null", "-e", "trace=splice", "-e", "inject=splice:delay_enter=1000000",
                "-p", "\(server.pid)",
            ])
        usleep(700_000)
        let whole = disk
        try concurrently(2) { number in
            if number == 0 {
                var seen = [UInt8](repeating: 0, count: count)
                #expect(pread(view, &seen, count, first) == count)
                #expect(!seen.contains(0x42))
            } else {
                // The pages have gone into the pipe, and have not come out.
                usleep(1_500_000)
                try runSuccessfully("fallocate", "-p", "-o", "0", "-l", "\(count)", whole)
                for _ in 0..<4 { #expect(fsync(descriptor) == 0) }
                #expect(pwrite(descriptor, [UInt8](repeating: 0x42, count: count), count, second) == count)
            }
        }
        close(descriptor)
        close(view)
        tracer.stop(SIGINT)
        _ = tracer.wait(timeout: 10)
        server.stop(SIGTERM)
        _ = server.wait(timeout: 20)
    }
}
