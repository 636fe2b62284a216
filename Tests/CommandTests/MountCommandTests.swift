internal import CLinux
internal import Glibc
import TestSupport
import Testing

/// The built program with real mounts.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct MountCommandTests {
    @Test func mountListUmount() throws {
        let playground = try Playground()
        let pidFile = playground.directory.file("pid")
        let mounted = try Product.run("--pid-file", pidFile, playground.image, playground.mountpoint)
        #expect(mounted.succeeded, "\(mounted)")
        #expect(mounted.text == "\(playground.disk)\n")
        #expect(try HostFiles.read(playground.disk) == playground.content)
        let line = try #require(try FUSE.mountinfo(playground.mountpoint))
        #expect(line.contains(" - fuse.platter \(playground.image) ro"), "\(line)")

        let pid = try #require(Int(try HostFiles.text(pidFile).split(separator: "\n")[0]))
        let list = try #require(try JSON(parsing: Product.run("list", "--json").output).array)
        let entry = try #require(list.first { $0["mountpoint"]?.string == playground.mountpoint })
        #expect(entry["image"]?.string == playground.image)
        #expect(entry["mode"]?.string == "ro")
        #expect(entry["pid"]?.int == pid)

        let again = try Product.run(playground.image, playground.mountpoint)
        #expect(again.status == 32 && again.errors.contains("already a mountpoint"), "\(again)")

        let unmounted = try Product.run("umount", "--wait", playground.image)
        #expect(unmounted.succeeded, "\(unmounted)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        #expect(!HostFiles.exists(pidFile), "the server removes its pid file")
        let gone = try Product.run("umount", playground.mountpoint)
        #expect(gone.status == 32 && gone.errors.contains("not a mount of platter"), "\(gone)")
    }

    @Test func aFileAsMountpointBecomesTheDisk() throws {
        let playground = try Playground()
        let file = try playground.directory.write([], to: "mnt2")
        let mounted = try Product.run(playground.image, file)
        #expect(mounted.succeeded && mounted.text == "\(file)\n", "\(mounted)")
        #expect(try HostFiles.read(file) == playground.content)
        #expect(try Product.run("umount", "--wait", file).succeeded)
        for option in ["partitions", "snapshots", "layers", "name=x"] {
            let refused = try Product.run("-o", option, playground.image, file)
            #expect(refused.status == 1 && refused.errors.contains("needs a directory"), "\(refused)")
        }
    }

    @Test func whatCannotBeMountedIsOneLineAndChangesNothing() throws {
        let playground = try Playground()
        let text = try playground.directory.write(Array("only text".utf8), to: "text.vhdx")
        let empty = try playground.directory.write([], to: "empty.vhdx")
        let cases: [([String], String)] = [
            ([playground.directory.file("missing.vhdx"), playground.mountpoint], "no such file"),
            ([text, playground.mountpoint], "holds text and no disk image"),
            ([empty, playground.mountpoint], "empty"),
            ([playground.image, playground.mountpoint, "-o", "format=vhdx"], playground.image),
            ([playground.image, playground.directory.file("nowhere")], "does not exist"),
            ([playground.image, playground.directory.path, "-o", "nonempty"], "hide"),
            ([playground.image, "/proc/self"], "/proc"),
        ]
        for (arguments, reason) in cases {
            let result = try ChildProcess(Product.path, arguments).wait(timeout: 20)
            #expect(result.status == 32, "\(result)")
            #expect(result.errors.hasPrefix("platter: "), "\(result)")
            #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
            #expect(result.errors.contains(reason), "\(result)")
            #expect(try FUSE.mountinfo(playground.mountpoint) == nil, "\(result)")
            #expect(try FUSE.mountinfo(playground.directory.path) == nil, "\(result)")
        }
        let full = playground.directory.file("full")
        mkdir(full, 0o755)
        try HostFiles.write([1], to: full + "/something")
        let refused = try Product.run(playground.image, full)
        #expect(refused.status == 32 && refused.errors.contains("nonempty"), "\(refused)")
        let covered = try Product.run(playground.image, full, "-o", "nonempty")
        #expect(covered.succeeded, "\(covered)")
        #expect(try Product.run("umount", "--wait", full).succeeded)
        #expect(HostFiles.exists(full + "/something"))
    }

    @Test(.enabled(if: Tool.has("qemu-img", "qemu-io"), "qemu is missing"))
    func anImageThatQemuWritesIsLeftAlone() throws {
        let playground = try Playground()
        let image = playground.directory.file("live.qcow2")
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", image, "16M")
        let qemu = try ChildProcess("sh", ["-c", "sleep 30 | qemu-io -f qcow2 '\(image)'"])
        defer { qemu.stop(SIGKILL) }
        // A mount that came first would keep qemu out: its locks are there before anything else is tried.
        var facts = clinux_file_facts()
        try #require(clinux_facts_at(AT_FDCWD, image, 1, &facts) == 0)
        let inode = facts.inode
        #expect(try playground.eventually { try HostFiles.text("/proc/locks").contains(":\(inode) 103 103") })
        let result = try Product.run(image, playground.mountpoint)
        #expect(result.status == 32 && result.errors.contains("another program"), "\(result)")
        #expect(result.errors.contains("qemu-io"), "\(result)")
    }

    @Test func termDrainsWhileTheDiskIsInUse() throws {
        let playground = try Playground()
        let server = try ChildProcess(Product.path, ["mount", "-f", playground.image, playground.mountpoint])
        #expect(playground.eventually { HostFiles.exists(playground.disk) })
        let descriptor = open(playground.disk, O_RDONLY | O_CLOEXEC)
        #expect(descriptor >= 0)
        server.signal(SIGTERM)
        #expect(try playground.eventually { try FUSE.mountinfo(playground.mountpoint) == nil })
        var buffer = [UInt8](repeating: 0, count: 4096)
        posix_fadvise(descriptor, 0, 0, Int32(POSIX_FADV_DONTNEED))
        #expect(pread(descriptor, &buffer, 4096, 512 << 10) == 4096)
        #expect(buffer[...] == playground.content[(512 << 10)..<((512 << 10) + 4096)])
        #expect(server.isRunning)
        close(descriptor)
        let result = server.wait(timeout: 20)
        #expect(result.status == 0, "\(result)")
        #expect(result.errors.contains("detached"), "\(result)")
    }

    @Test func theSecondTermEndsTheConnection() throws {
        let playground = try Playground()
        let server = try ChildProcess(Product.path, ["mount", "-f", playground.image, playground.mountpoint])
        #expect(playground.eventually { HostFiles.exists(playground.disk) })
        let descriptor = open(playground.disk, O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        server.signal(SIGTERM)
        #expect(try playground.eventually { try FUSE.mountinfo(playground.mountpoint) == nil })
        server.signal(SIGTERM)
        let result = server.wait(timeout: 20)
        #expect(result.status == 0 && !result.timedOut, "\(result)")
    }

    @Test func umountSaysWhoUsesTheMount() throws {
        let playground = try Playground()
        #expect(try Product.run(playground.image, playground.mountpoint).succeeded)
        let user = try ChildProcess("sh", ["-c", "exec sleep 60 < '\(playground.disk)'"])
        #expect(playground.eventually { HostFiles.exists("/proc/\(user.pid)/fd/0") })
        let busy = try Product.run("umount", "--timeout", "0.2", playground.mountpoint)
        #expect(busy.status == 32 && busy.errors.contains("pid \(user.pid)"), "\(busy)")
        let lazy = try Product.run("umount", "--lazy", playground.mountpoint)
        #expect(lazy.succeeded, "\(lazy)")
        user.stop()
    }

    @Test func readinessIsToldOnADescriptorAndToSystemd() throws {
        let playground = try Playground()
        let path = playground.directory.file("notify")
        let listener = try DatagramListener(path)
        let script = "exec 7>'\(playground.directory.file("ready"))'; exec '\(Product.path)' --ready-fd 7 \"$@\""
        let result = try ChildProcess(
            "sh", ["-c", script, "sh", playground.image, playground.mountpoint], environment: ["NOTIFY_SOCKET": path]
        ).wait(timeout: 20)
        #expect(result.succeeded, "\(result)")
        #expect(try HostFiles.text(playground.directory.file("ready")) == "\n")
        let message = try #require(listener.receive())
        #expect(message.hasPrefix("READY=1\nMAINPID="), "\(message)")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        #expect(listener.receive()?.hasPrefix("STOPPING=1") == true)
    }

    @Test func theServerKeepsNothingOfItsCaller() throws {
        let playground = try Playground()
        let pidFile = playground.directory.file("pid")
        let script = "exec 9<'\(playground.image)'; exec '\(Product.path)' --pid-file '\(pidFile)' \"$@\" <&-"
        let result = try run(
            "env", "-i", "/bin/sh", "-c", script, "sh", playground.image, playground.mountpoint, "-o", "rw,dev,suid")
        #expect(result.succeeded, "\(result)")
        let pid = try HostFiles.text(pidFile).split(separator: "\n")[0]
        for descriptor in 0...2 {
            #expect(try runSuccessfully("readlink", "/proc/\(pid)/fd/\(descriptor)") == "/dev/null\n")
        }
        #expect(try runSuccessfully("readlink", "/proc/\(pid)/cwd") == "/\n")
        #expect(try run("readlink", "/proc/\(pid)/fd/9").text != "\(playground.image)\n")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
    }
}

/// A socket as systemd has one for sd_notify.
final class DatagramListener {
    private let descriptor: Int32

    init(_ path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0 else { throw HostFailure("cannot bind \(path)") }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// The next message, at most ten seconds later.
    func receive() -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
    }
}
