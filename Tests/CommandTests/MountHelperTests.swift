internal import Glibc
import TestSupport
import Testing

/// The program as mount(8), fstab and ordinary users call it.
@Suite(.serialized, .enabled(if: FUSE.isThereForRoot, "needs root and /dev/fuse"))
struct MountHelperTests {
    @Test(.enabled(if: Tool.has("mount.fuse3"), "mount.fuse3 is missing"))
    func mountWithATypeAsRoot() throws {
        let playground = try Playground()
        let type = "fuse.\(Product.path)"
        let result = try run("mount", "-t", type, "-o", "noexec", playground.image, playground.mountpoint)
        #expect(result.succeeded, "\(result)")
        #expect(try HostFiles.read(playground.disk) == playground.content)
        let line = try #require(try FUSE.mountinfo(playground.mountpoint))
        #expect(line.contains("fuse.platter \(playground.image)") && line.contains("noexec"), "\(line)")
        #expect(try runSuccessfully("umount", playground.mountpoint).isEmpty)
    }

    @Test(.enabled(if: Tool.has("mount.fuse3"), "mount.fuse3 is missing"))
    func aLineOfFstab() throws {
        let playground = try Playground()
        let source = try playground.directory.write(playground.content, to: "my disk.img")
        let escaped = source.split(separator: " ").joined(separator: "\\040")
        let line = "\(escaped) \(playground.mountpoint) fuse.\(Product.path) ro,nofail,x-systemd.automount,uid=12 0 0\n"
        let table = try playground.directory.write(Array(line.utf8), to: "fstab")
        let result = try run("mount", "-T", table, playground.mountpoint)
        #expect(result.succeeded, "\(result)")
        #expect(result.output.isEmpty, "a mount helper prints nothing")
        let disk = playground.mountpoint + "/my disk.img"
        #expect(try HostFiles.read(disk) == playground.content)
        #expect(try runSuccessfully("stat", "-c", "%u %a", disk) == "12 444\n")
        #expect(try runSuccessfully("umount", playground.mountpoint).isEmpty)
    }

    @Test func theHelpersNames() throws {
        let playground = try Playground()
        for name in ["mount.fuse.platter", "umount.fuse.platter"] {
            symlink(Product.path, playground.directory.file(name))
        }
        let helper = playground.directory.file("mount.fuse.platter")
        let fake = try run(helper, playground.image, playground.mountpoint, "-f", "-o", "rw")
        #expect(fake.succeeded && (try FUSE.mountinfo(playground.mountpoint)) == nil, "\(fake)")
        let strict = try run(helper, playground.image, playground.mountpoint, "-o", "odd")
        #expect(strict.status == 1 && strict.errors.contains("'odd'"), "\(strict)")
        let sloppy = try run(helper, playground.image, playground.mountpoint, "-s", "-v", "-o", "rw,odd")
        #expect(sloppy.succeeded && sloppy.output.isEmpty, "\(sloppy)")
        #expect(try HostFiles.read(playground.disk) == playground.content)
        let unmount = try run(playground.directory.file("umount.fuse.platter"), playground.mountpoint, "-v")
        #expect(unmount.succeeded && (try FUSE.mountinfo(playground.mountpoint)) == nil, "\(unmount)")
    }

    @Test(.enabled(if: Tool.has("fusermount3", "setpriv"), "fusermount3 or setpriv is missing"))
    func anOrdinaryUser() throws {
        let playground = try Playground()
        chmod(playground.directory.path, 0o755)
        chown(playground.mountpoint, 65534, 65534)
        // The product may lie where this user cannot go.
        let program = playground.directory.file("platter")
        try runSuccessfully("cp", Product.path, program)
        func asUser(_ arguments: String...) throws -> CommandResult {
            let drop = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
            return try ChildProcess("setpriv", drop + arguments).wait(timeout: 30)
        }
        let mounted = try asUser(program, playground.image, playground.mountpoint)
        #expect(mounted.succeeded, "\(mounted)")
        #expect(mounted.text == "\(playground.disk)\n")
        #expect(try asUser("cmp", playground.disk, playground.image).succeeded)
        let line = try #require(try FUSE.mountinfo(playground.mountpoint))
        #expect(line.contains("fuse.platter \(playground.image)") && line.contains("user_id=65534"), "\(line)")
        let unmounted = try asUser(program, "umount", "--wait", playground.mountpoint)
        #expect(unmounted.succeeded, "\(unmounted)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }
}
