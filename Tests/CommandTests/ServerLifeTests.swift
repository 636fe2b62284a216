internal import CLinux
internal import Glibc
import TestSupport
import Testing

/// What the server leaves, says and keeps from its start to its end.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct ServerLifeTests {
    @Test func aMountWhoseServerWasKilledDoesNotBlockTheNext() throws {
        let playground = try Playground()
        let pidFile = playground.directory.file("pid")
        #expect(try Product.run("--pid-file", pidFile, playground.image, playground.mountpoint).succeeded)
        let pid = try #require(Int32(try HostFiles.text(pidFile).split(separator: "\n")[0]))
        #expect(kill(pid, SIGKILL) == 0)
        var type: Int64 = 0
        #expect(playground.eventually { clinux_filesystem_type(playground.mountpoint, &type) != 0 })
        let again = try Product.run("--log", "/dev/null", playground.image, playground.mountpoint)
        #expect(again.succeeded && again.text == "\(playground.disk)\n", "\(again)")
        #expect(again.errors.split(separator: "\n").count == 1 && again.errors.contains("had died"), "\(again)")
        #expect(try HostFiles.read(playground.disk) == playground.content)
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    /// A qcow2 image whose only cluster lies past the end of the file.
    private func damaged(_ playground: Playground) throws -> String {
        let path = playground.directory.file("cut.qcow2")
        try runSuccessfully("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
        try runSuccessfully("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
        try HostFiles.truncate(path, to: 400 << 10)
        return path
    }

    @Test(.enabled(if: Tool.has("qemu-img", "qemu-io"), "qemu is missing"))
    func aReadErrorBehindTheTerminalHasALineInTheLogFile() throws {
        let playground = try Playground()
        let image = try damaged(playground)
        let log = playground.directory.file("log")
        #expect(try Product.run(image, playground.mountpoint, "-o", "log=\(log)").succeeded)
        #expect(try run("cat", playground.mountpoint + "/cut.qcow2.raw").errors.contains("Input/output error"))
        #expect(
            try HostFiles.text(log).split(separator: "\n").contains {
                $0.contains("error") && $0.contains(image) && $0.contains("read failed at byte")
            })
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
    }

    /// /dev of a private mount namespace: the few files that the server needs, and a log socket that this test reads.
    @Test(.enabled(if: geteuid() == 0 && Tool.has("qemu-img", "qemu-io", "unshare"), "needs root, qemu and unshare"))
    func aReadErrorBehindTheTerminalHasALineInSyslog() throws {
        let playground = try Playground()
        let image = try damaged(playground)
        let listener = try DatagramListener(playground.directory.file("socket"))
        let device = playground.directory.file("dev")
        let script = """
            set -e; program=$1 image=$2 point=$3 socket=$4 dev=$5
            mkdir "$dev"; mount -t tmpfs none "$dev"
            for name in null zero fuse urandom; do : > "$dev/$name"; mount --bind /dev/$name "$dev/$name"; done
            : > "$dev/log"; mount --bind "$socket" "$dev/log"; mount --rbind "$dev" /dev
            "$program" "$image" "$point"; cat "$point/cut.qcow2.raw" > /dev/null && exit 9
            "$program" umount --wait "$point"
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, image, playground.mountpoint,
            playground.directory.file("socket"), device, timeout: 30)
        #expect(result.succeeded, "\(result)")
        var lines: [String] = []
        while let line = listener.receive() {
            lines.append(line)
            if line.contains("read failed at byte") { break }
        }
        let line = try #require(lines.last)
        #expect(line.contains("platter[") && line.contains(image) && line.contains("read failed at byte"), "\(lines)")
    }

    @Test func theServerMayOpenAsManyFilesAsItEverMay() throws {
        let playground = try Playground()
        let pidFile = playground.directory.file("pid")
        let script = "ulimit -Sn 64; exec '\(Product.path)' --pid-file '\(pidFile)' \"$@\""
        #expect(try run("sh", "-c", script, "sh", playground.image, playground.mountpoint).succeeded)
        let pid = try HostFiles.text(pidFile).split(separator: "\n")[0]
        let limits = try HostFiles.text("/proc/\(pid)/limits").split(separator: "\n")
            .first { $0.hasPrefix("Max open files") }
        let fields = try #require(limits).split(separator: " ")
        #expect(fields[3] == fields[4] && fields[3] != "64", "\(fields)")
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
    }

    @Test(.enabled(if: geteuid() == 0, "needs root"))
    func rootsPidFileInAnothersDirectory() throws {
        let playground = try Playground()
        let directory = playground.directory.file("home")
        #expect(mkdir(directory, 0o755) == 0 && chown(directory, 12345, 12345) == 0)
        let pidFile = directory + "/pid"
        #expect(try Product.run("--pid-file", pidFile, playground.image, playground.mountpoint).succeeded)
        #expect(Int32(try HostFiles.text(pidFile).split(separator: "\n")[0]) != nil)
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        #expect(try !HostFiles.exists(pidFile) || HostFiles.read(pidFile).isEmpty)
    }

    @Test(arguments: ["a,b.raw", "a\\b.raw", "a b.raw", "a\nb.raw", "\\040,\t.raw", "\"q\".raw"])
    func aStrangeNameIsTheDeviceOfItsMount(_ name: String) throws {
        let playground = try Playground()
        let image = try playground.directory.write(playground.content, to: name)
        #expect(try Product.run(image, playground.mountpoint).succeeded)
        let list = try #require(try JSON(parsing: Product.run("list", "--json").output).array)
        #expect(list.first { $0["mountpoint"]?.string == playground.mountpoint }?["image"]?.string == image)
        #expect(try HostFiles.read(playground.mountpoint + "/" + name) == playground.content)
        let status = try JSON(parsing: HostFiles.read(playground.mountpoint + "/.platter/status.json"))
        #expect(status["source"]?.string == image)
        #expect(try Product.run("umount", "--wait", image).succeeded)
    }

    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv", "fusermount3"), "needs root, setpriv and fusermount3"))
    func whatFusermountRefusesIsOneLine() throws {
        let playground = try Playground()
        #expect(chmod(playground.directory.path, 0o755) == 0)
        let result = try run(
            "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", Product.path, playground.image,
            playground.mountpoint)
        #expect(result.status == 32, "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        #expect(result.errors.hasPrefix("platter: "), "\(result)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    @Test func aDirectoryWithoutImagesIsRefusedInOneLine() throws {
        let playground = try Playground()
        let empty = playground.directory.file("empty")
        #expect(mkdir(empty, 0o755) == 0)
        let result = try Product.run(empty, playground.mountpoint)
        #expect(result.status == 32, "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1 && result.errors.contains("no disk image"), "\(result)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }
}
