import Glibc
import TestSupport
import Testing

/// Whether a script can have a mount namespace of its own.
enum Namespace {
    static let isThere = geteuid() == 0 && Tool.has("unshare")
}

/// Machines that lack something: rescue shells, containers, scripts whose variables are not set.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct SituationTests {
    /// Runs a script in a mount namespace of its own; `$1` is the program, and the playground is the working directory.
    private func isolated(_ script: String, _ playground: Playground) throws -> CommandResult {
        try run(
            "unshare", "-m", "sh", "-c", "cd \"$2\"\n" + script, "sh", Product.path, playground.directory.path,
            timeout: 60)
    }

    @Test(arguments: [
        ["", "mnt"], ["disk.raw", ""], ["mount", "disk.raw", ""], ["info", ""], ["map", ""], ["check", ""],
        ["umount", ""], ["create", "-f", "raw", "", "1M"], ["create", "-f", "raw", "new.raw", ""],
    ])
    func anEmptyArgumentIsNoPath(_ arguments: [String]) throws {
        let playground = try Playground()
        let result = try ChildProcess(Product.path, arguments, directory: playground.directory.path).wait()
        #expect(result.status == 1, "\(result)")
        #expect(result.errors.contains("is empty; is a variable in it not set?"), "\(result)")
        #expect(try FUSE.mountinfo(playground.directory.path) == nil)
        #expect(!HostFiles.exists(playground.directory.file("new.raw")))
    }

    @Test(arguments: [
        "--pid-file=", "--log=", "-olog=", "--overlay=", "-ooverlay=", "--allow-parents=", "-oname=", "-oformat=",
        "-ocache-size=", "--ready-fd=", "--threads=", "-ouid=",
    ])
    func anEmptyValueIsNamed(_ option: String) throws {
        let playground = try Playground()
        let result = try Product.run(option, playground.image, playground.mountpoint)
        #expect(result.status == 1, "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        let name = option.dropFirst(option.hasPrefix("-o") ? 2 : 0).dropLast()
        #expect(result.errors.hasPrefix("platter: '\(name)' "), "\(result)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func withoutProc() throws {
        let playground = try Playground()
        let script = """
            set -e; mkdir dir other; cp disk.raw dir/a.raw; ln disk.raw right; umount -l /proc
            "$1" --log log -w disk.raw mnt; cmp mnt/disk.raw right
            "$1" --log log2 dir other; cmp other/a.raw right
            "$1" info dir/a.raw >/dev/null; "$1" map dir/a.raw >/dev/null; "$1" create -q -f qcow2 new.qcow2 1M
            "$1" check new.qcow2 >/dev/null
            for command in list "umount mnt"; do
              if "$1" $command 2>said; then exit 9; fi
              grep -q '/proc/self/mountinfo: cannot be read; is /proc mounted?' said
            done
            mount -t proc proc /proc; "$1" umount --wait mnt; "$1" umount --wait other
            grep -q 'cannot be watched (is /proc mounted?)' log2
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
    }

    /// The overlay has a name there, since nothing else opens it again, and loses it before anybody reads.
    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func aTemporaryOverlayWithoutProc() throws {
        let playground = try Playground()
        let script = """
            set -e; umount -l /proc; "$1" --log /dev/null --overlay tmp disk.raw mnt
            printf hello | dd of=mnt/disk.raw conv=notrunc,fsync status=none; test "$(head -c 5 mnt/disk.raw)" = hello
            mount -t proc proc /proc; "$1" umount --wait mnt
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
        #expect(try HostFiles.read(playground.image) == playground.content)
        #expect(try HostFiles.list(playground.directory.path) == ["disk.raw", "mnt"])
    }

    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func withoutASystemLog() throws {
        let playground = try Playground()
        let script = """
            set -e; mkdir dev; mount -t tmpfs none dev
            for name in null zero fuse urandom; do : > dev/$name; mount --bind /dev/$name dev/$name; done
            mount --rbind dev /dev
            "$1" disk.raw mnt 2>said; cmp mnt/disk.raw disk.raw; "$1" umount --wait mnt
            "$1" --log log disk.raw mnt 2>quiet; "$1" umount --wait mnt
            if "$1" nothing mnt 2>failed; then exit 9; fi
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
        let said = try HostFiles.text(playground.directory.file("said"))
        let line = "there is no system log here (/dev/log): errors from now on are lost; --log FILE would keep them"
        #expect(said == "platter: \(line)\n")
        #expect(try HostFiles.text(playground.directory.file("quiet")).isEmpty)
        #expect(try HostFiles.text(playground.directory.file("failed")).split(separator: "\n").count == 1)
    }

    /// A root directory whose /dev holds nothing else: the server leaves the pipe of its caller all the same.
    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func withoutDevNull() throws {
        let playground = try Playground()
        let script = """
            set -e; mkdir dev; mount -t tmpfs none dev; : > dev/fuse; mount --bind /dev/fuse dev/fuse
            mount --rbind dev /dev; test ! -e /dev/null
            said=$("$1" --log log disk.raw mnt); test "$said" = "$PWD/mnt/disk.raw"; cmp mnt/disk.raw disk.raw
            "$1" info disk.raw <&- >info; "$1" umount --wait mnt
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
    }

    /// No mtab, no passwd, no fuse.conf.
    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func withoutEtc() throws {
        let playground = try Playground()
        let script = """
            set -e; mount -t tmpfs none /etc; "$1" --log log disk.raw mnt; cmp mnt/disk.raw disk.raw
            "$1" list | grep -q /mnt; "$1" umount --wait mnt; test ! -e /etc/mtab
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
    }

    @Test func aTMPDIRThatIsEmptyIsNotSet() throws {
        let playground = try Playground()
        let arguments = ["--log", "/dev/null", "--overlay", "tmp", playground.image, playground.mountpoint]
        let result = try ChildProcess(Product.path, arguments, environment: ["TMPDIR": ""], directory: "/").wait()
        #expect(result.succeeded, "\(result)")
        try HostFiles.patch([7], at: 0, of: playground.disk)
        #expect(try Product.run("umount", "--wait", playground.mountpoint).succeeded)
        #expect(try HostFiles.read(playground.image) == playground.content)
    }

    @Test func aTMPDIRThatIsNotThereIsNamed() throws {
        let playground = try Playground()
        let nowhere = playground.directory.file("nowhere")
        let result = try Product.run(
            "--overlay", "tmp", playground.image, playground.mountpoint, environment: ["TMPDIR": nowhere])
        #expect(result.status == 32, "\(result)")
        #expect(result.errors.hasPrefix("platter: \(nowhere): ") && result.errors.contains("TMPDIR"), "\(result)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    /// A dead mount of somebody else is not ours to remove; the advice names what removes it.
    @Test(.enabled(if: Namespace.isThere, "needs root and unshare"))
    func theAdviceForAnothersDeadMountWorks() throws {
        let playground = try Playground()
        let script = """
            set -e
            unshare -m sh -c 'exec 9<>/dev/fuse
              mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0,subtype=other dead mnt
              exec 9>&-; cp /proc/self/mountinfo before
              if "$1" disk.raw mnt 2>said; then exit 9; fi
              eval "$(sed "s/.*(\\(umount -l .*\\)).*/\\1/" said)"
              "$1" --log log disk.raw mnt; cmp mnt/disk.raw disk.raw; "$1" umount --wait mnt' sh "$1"
            """
        let result = try isolated(script, playground)
        #expect(result.succeeded, "\(result)")
        let said = try HostFiles.text(playground.directory.file("said"))
        #expect(said.contains("umount -l '\(playground.mountpoint)'"), "\(said)")
    }
}
