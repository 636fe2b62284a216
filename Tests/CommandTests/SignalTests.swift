import Glibc
import TestSupport
import Testing

/// TERM at awkward moments: while the server starts, twice at once, and while somebody else unmounts. Each ends the server, and
/// nothing is reported that did not happen.
@Suite(.serialized, .enabled(if: FUSE.isThereForRoot, "needs root and /dev/fuse"))
struct SignalTests {
    static let moments = 0..<16

    private func start(_ playground: Playground) throws -> ChildProcess {
        try ChildProcess(
            Product.path, ["-f", "--pid-file", pidFile(playground), playground.image, playground.mountpoint])
    }

    /// It is there once the mount answers.
    private func pidFile(_ playground: Playground) -> String { playground.directory.file("pid") }

    private func expectGoodEnd(_ result: CommandResult, _ playground: Playground) throws {
        #expect(result.succeeded, "\(result)")
        for words in ["cannot be detached", "could not be ended", "Bad file descriptor"] {
            #expect(!result.errors.contains(words), "\(result)")
        }
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    @Test(arguments: moments)
    func whileItStarts(_ moment: Int) throws {
        let playground = try Playground()
        let server = try start(playground)
        usleep(UInt32(moment) * 2500)
        server.signal(SIGTERM)
        let result = server.wait(timeout: 20)
        // Before it takes signals there is nothing to end.
        if result.status == -SIGTERM || result.status == 128 + SIGTERM {
            #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        } else {
            try expectGoodEnd(result, playground)
        }
    }

    /// Ctrl-C while a mount behind the terminal is made: the server has a session of its own and does not get the signal.
    @Test(arguments: moments)
    func whoeverWaitsIsInterrupted(_ moment: Int) throws {
        let playground = try Playground()
        let log = playground.directory.file("log")
        let caller = try ChildProcess(Product.path, ["--log", log, playground.image, playground.mountpoint])
        usleep(UInt32(moment) * 2500)
        caller.signal(SIGINT)
        // The log appears before the mount does, and nobody answers when the server has ended.
        guard !caller.wait(timeout: 20).succeeded else { return }
        usleep(100_000)
        #expect(try playground.eventually { try FUSE.mountinfo(playground.mountpoint) == nil })
    }

    @Test(arguments: moments)
    func twiceAtOnce(_ moment: Int) throws {
        let playground = try Playground()
        let server = try start(playground)
        #expect(playground.eventually { HostFiles.exists(playground.disk) })
        server.signal(SIGTERM)
        usleep(UInt32(moment) * 200)
        server.signal(SIGTERM)
        try expectGoodEnd(server.wait(timeout: 20), playground)
    }

    @Test(arguments: moments)
    func whileSomebodyUnmounts(_ moment: Int) throws {
        let playground = try Playground()
        let server = try start(playground)
        #expect(playground.eventually { HostFiles.exists(pidFile(playground)) })
        let script = "umount -l '\(playground.mountpoint)' 2>/dev/null || true"
        let unmounting = try ChildProcess("sh", ["-c", script])
        usleep(UInt32(moment) * 400)
        server.signal(SIGTERM)
        #expect(unmounting.wait(timeout: 20).succeeded)
        try expectGoodEnd(server.wait(timeout: 20), playground)
    }

    /// Detached by another, and still in use: TERM has nothing to detach, and says so by serving on; the second one ends it.
    @Test func afterSomebodyHasUnmountedLazily() throws {
        let playground = try Playground()
        let server = try start(playground)
        #expect(playground.eventually { HostFiles.exists(pidFile(playground)) })
        let file = try HostFiles.open(playground.disk, writing: false)
        defer { close(file) }
        try runSuccessfully("umount", "-l", playground.mountpoint)
        server.signal(SIGTERM)
        usleep(100_000)
        var byte: UInt8 = 0
        #expect(pread(file, &byte, 1, 4096) == 1 && byte == playground.content[4096])
        server.signal(SIGTERM)
        try expectGoodEnd(server.wait(timeout: 20), playground)
    }

    @Test func belowAnotherMountItSaysSo() throws {
        let playground = try Playground()
        let server = try start(playground)
        #expect(playground.eventually { HostFiles.exists(pidFile(playground)) })
        try runSuccessfully("mount", "-t", "tmpfs", "none", playground.mountpoint)
        server.signal(SIGTERM)
        usleep(200_000)
        #expect(server.isRunning)
        try runSuccessfully("umount", playground.mountpoint)
        #expect(try HostFiles.read(playground.disk) == playground.content)
        try runSuccessfully("umount", playground.mountpoint)
        let result = server.wait(timeout: 20)
        #expect(result.succeeded && result.errors.contains("cannot be detached: something else is mounted over it"))
    }
}
