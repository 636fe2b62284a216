internal import Glibc
import TestSupport
import Testing

/// The program as mount(8), fstab and ordinary users call it.
@Suite(.serialized, .enabled(if: FUSE.isThereForRoot, "needs root and /dev/fuse"))
struct MountHelperTests {
    @Test(.enabled(if: Tool.has("mount.fuse3"), "mount.fuse3 is missing"))
    func mountWithATypeAsRoot() throws {
        let playground = try Playground()
        let program = try ProgramWithoutDots()
        let type = "fuse.\(program.path)"
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
        let program = try ProgramWithoutDots()
        let source = try playground.directory.write(playground.content, to: "my disk.raw")
        let escaped = source.split(separator: " ").joined(separator: "\\040")
        let line = "\(escaped) \(playground.mountpoint) fuse.\(program.path) ro,nofail,x-systemd.automount,uid=12 0 0\n"
        let table = try playground.directory.write(Array(line.utf8), to: "fstab")
        let result = try run("mount", "-T", table, playground.mountpoint)
        #expect(result.succeeded, "\(result)")
        #expect(result.output.isEmpty, "a mount helper prints nothing")
        let disk = playground.mountpoint + "/my disk.raw"
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
        #expect(fake.succeeded, "\(fake)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        let strict = try run(helper, playground.image, playground.mountpoint, "-o", "odd")
        #expect(strict.status == 1 && strict.errors.contains("'odd'"), "\(strict)")
        let sloppy = try run(helper, playground.image, playground.mountpoint, "-s", "-v", "-o", "rw,odd")
        #expect(sloppy.succeeded && sloppy.output.isEmpty, "\(sloppy)")
        #expect(try HostFiles.read(playground.disk) == playground.content)
        let unmount = try run(playground.directory.file("umount.fuse.platter"), playground.mountpoint, "-v")
        #expect(unmount.succeeded, "\(unmount)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    /// In a mount namespace of its own, where /dev/fuse is open to all as it is on an ordinary system.
    @Test(.enabled(if: Tool.has("fusermount3", "setpriv", "unshare"), "fusermount3, setpriv or unshare is missing"))
    func anOrdinaryUser() throws {
        let playground = try Playground()
        chmod(playground.directory.path, 0o755)
        chown(playground.mountpoint, 65534, 65534)
        // The product may lie where this user cannot go.
        try runSuccessfully("cp", Product.path, playground.directory.file("platter"))
        mkdir(playground.directory.file("dev"), 0o755)
        let script = """
            set -e
            cd "$1"
            mount -t tmpfs -o dev none dev
            mknod -m 666 dev/fuse c 10 229
            mount --bind dev/fuse /dev/fuse
            user="setpriv --reuid 65534 --regid 65534 --clear-groups --"
            $user ./platter disk.raw mnt
            grep " $1/mnt " /proc/self/mountinfo
            $user cmp mnt/disk.raw disk.raw
            $user ./platter umount --wait "$1/mnt"
            ! grep " $1/mnt " /proc/self/mountinfo
            """
        let result = try run("unshare", "--mount", "sh", "-c", script, "sh", playground.directory.path)
        #expect(result.succeeded, "\(result)")
        let lines = result.text.split(separator: "\n")
        #expect(lines.count == 2, "\(result)")
        #expect(lines.first == "\(playground.disk)", "\(result)")
        #expect(lines.last?.contains("fuse.platter \(playground.image) ro,user_id=65534") == true, "\(result)")
    }
}

/// A link to the product whose path mount(8) can take for a part of a type: it ends a type at its last dot.
final class ProgramWithoutDots {
    private let directory: String

    var path: String { directory + "/platter" }

    init() throws {
        var template = Array("/var/tmp/platterXXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw HostFailure("cannot make a directory in /var/tmp") }
        directory = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        symlink(Product.path, path)
    }

    deinit { HostFiles.removeTree(directory) }
}
