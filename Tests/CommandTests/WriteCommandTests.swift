internal import Glibc
import TestSupport
import Testing

/// Mounts that write, as a user makes and ends them.
@Suite(.serialized, .enabled(if: FUSE.isThere, "\(FUSE.skipReason)"))
struct WriteCommandTests {
    private let playground: Playground
    private let bytes: [UInt8]

    init() throws {
        playground = try Playground()
        var random = SeededRandom(seed: 11)
        bytes = random.bytes(300_000)
    }

    private func created(_ name: String, _ arguments: String...) throws -> String {
        let path = playground.directory.file(name)
        let size = arguments.contains("--parent") ? [] : ["8M"]
        let result = try ChildProcess(Product.path, ["create", "-q"] + arguments + [path] + size).wait()
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        return path
    }

    private func disk(_ image: String) -> String {
        let name = String(image.split(separator: "/").last ?? "")
        return playground.mountpoint + "/" + name + (name.hasSuffix(".raw") ? "" : ".raw")
    }

    private func mount(_ arguments: String...) throws -> CommandResult {
        try ChildProcess(Product.path, arguments + [playground.mountpoint]).wait(timeout: 30)
    }

    private func unmount() throws -> CommandResult { try Product.run("umount", playground.mountpoint) }

    /// The bytes that lie at 100,000 on the disk of an image, through a mount for reading.
    private func content(_ arguments: String..., image: String) throws -> [UInt8] {
        let mounted = try ChildProcess(Product.path, arguments + [image, playground.mountpoint]).wait(timeout: 30)
        guard mounted.succeeded else { throw HostFailure("\(mounted)", errno: 0) }
        let all = try HostFiles.read(disk(image))
        guard try unmount().succeeded else { throw HostFailure("cannot unmount", errno: 0) }
        return Array(all[100_000..<100_000 + bytes.count])
    }

    private func write(_ image: String) throws { try HostFiles.patch(bytes, at: 100_000, of: disk(image)) }

    @Test(arguments: ["disk.vhdx", "disk.vhd", "disk.qcow2", "my.raw"])
    func whatWasWrittenIsThereWhenUmountReturns(_ name: String) throws {
        let image = try created(name)
        let mounted = try mount("-w", image)
        #expect(mounted.succeeded && mounted.text == "\(disk(image))\n", "\(mounted)")
        let list = try #require(try JSON(parsing: Product.run("list", "--json").output).array)
        #expect(list.first { $0["mountpoint"]?.string == playground.mountpoint }?["mode"]?.string == "rw")
        try write(image)
        let ended = try unmount()
        #expect(ended.succeeded, "\(ended)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
        #expect(try Product.run("check", image).status == 0)
        #expect(try content(image: image) == bytes)
    }

    @Test func withoutTheWordNothingIsWritten() throws {
        let image = try created("disk.qcow2")
        let before = try HostFiles.read(image)
        for options in ["rw", "ro", "rw,noatime"] {
            #expect(try mount(image, "-o", options).succeeded)
            #expect(throws: HostFailure.self) { try write(image) }
            #expect(try unmount().succeeded)
        }
        #expect(try HostFiles.read(image) == before)
    }

    @Test func aChildIsWrittenAndItsParentIsNot() throws {
        for format in ["vhdx", "vhd", "qcow2"] {
            let base = try created("base.\(format)")
            let child = try created("child.\(format)", "--parent", base)
            let before = try HostFiles.read(base)
            #expect(try mount("-w", child).succeeded)
            try write(child)
            // The parent belongs to whoever has its child open for writing.
            let other = playground.directory.file("other-\(format)")
            mkdir(other, 0o755)
            let refused = try Product.run("-w", base, other)
            #expect(refused.status == 32 && refused.errors.contains("another program"), "\(refused)")
            #expect(refused.errors.contains("platter (pid"), "\(refused)")
            #expect(try unmount().succeeded)
            #expect(try HostFiles.read(base) == before)
            #expect(try content(image: child) == bytes)
        }
    }

    @Test(.enabled(if: Tool.has("qemu-io", "qemu-img"), "qemu is missing"))
    func qemuAndAWriterKeepEachOtherOut() throws {
        let image = try created("disk.qcow2")
        #expect(try mount("-w", image).succeeded)
        let qemu = try run("qemu-img", "info", image)
        #expect(!qemu.succeeded && qemu.errors.contains("lock"), "\(qemu)")
        #expect(try unmount().succeeded)
        #expect(try run("qemu-img", "check", image).status == 0)
        let reader = try ChildProcess("sh", ["-c", "sleep 30 | qemu-io -r -f qcow2 '\(image)'"])
        defer { reader.stop(SIGKILL) }
        // Not by trying: a mount that comes first would keep qemu-io out for good.
        let isOpen = "find /proc/[0-9]*/fd -lname \"$1\" 2>/dev/null | grep -q ."
        for _ in 0..<200 where try !run("sh", "-c", isOpen, "sh", image).succeeded { usleep(50_000) }
        usleep(500_000)
        let refused = try mount("-w", image)
        #expect(refused.status == 32 && refused.errors.contains("qemu-io"), "\(refused)")
    }

    @Test func anOverlayTakesTheWrites() throws {
        let image = try created("disk.vhdx")
        let overlay = playground.directory.file("changes.qcow2")
        let before = try HostFiles.read(image)
        let mounted = try mount("--overlay", overlay, image)
        #expect(mounted.succeeded && mounted.text == "\(disk(image))\n", "\(mounted)")
        try write(image)
        #expect(try unmount().succeeded)
        #expect(try HostFiles.read(image) == before)
        #expect(try Product.run("check", overlay).status == 0)
        #expect(try content("-o", "overlay=\(overlay)", image: image) == bytes)
        if Tool.has("qemu-img") {
            let info = try JSON(parsing: Array(try runSuccessfully("qemu-img", "info", "--output=json", overlay).utf8))
            #expect(info["backing-filename-format"]?.string == "vhdx")
        }
        let stranger = try created("other.vhdx")
        let refused = try mount("--overlay", overlay, stranger)
        #expect(refused.status == 32 && refused.errors.contains("changes.qcow2"), "\(refused)")
        let broken = try playground.directory.write([1, 2, 3], to: "text")
        #expect(try mount("--overlay", broken, image).status == 32)
        #expect(try HostFiles.read(broken) == [1, 2, 3])
    }

    @Test func aTemporaryOverlayIsForgotten() throws {
        let image = try created("disk.qcow2")
        let names = try HostFiles.list(playground.directory.path)
        let before = try HostFiles.read(image)
        #expect(try mount("--overlay", "tmp", image).succeeded)
        try write(image)
        #expect(try HostFiles.list(playground.directory.path) == names)
        let shown = try HostFiles.read(disk(image))
        #expect(Array(shown[100_000..<100_000 + bytes.count]) == bytes)
        #expect(try unmount().succeeded)
        #expect(try HostFiles.read(image) == before)
        #expect(try HostFiles.list(playground.directory.path) == names)
    }

    @Test func aMountThatFailsLeavesNoOverlay() throws {
        let image = try created("disk.qcow2")
        let overlay = playground.directory.file("changes.qcow2")
        let refused = try Product.run("--overlay", overlay, image, playground.directory.file("nowhere"))
        #expect(refused.status == 32, "\(refused)")
        #expect(!HostFiles.exists(overlay))
    }

    @Test func aCorruptImageIsNotWritten() throws {
        let image = try created("disk.qcow2")
        // The corrupt bit of the incompatible features.
        try HostFiles.patch([2], at: 79, of: image)
        let refused = try mount("-w", image)
        #expect(refused.status == 32 && refused.errors.contains("platter check"), "\(refused)")
        #expect(refused.errors.split(separator: "\n").count == 1, "\(refused)")
        #expect(try FUSE.mountinfo(playground.mountpoint) == nil)
    }

    @Test func termSavesWhatWasWritten() throws {
        let image = try created("disk.vhdx")
        let server = try ChildProcess(Product.path, ["mount", "-f", "-w", image, playground.mountpoint])
        #expect(playground.eventually { HostFiles.exists(disk(image)) })
        try write(image)
        server.signal(SIGTERM)
        let result = server.wait(timeout: 20)
        #expect(result.status == 0, "\(result)")
        #expect(try content(image: image) == bytes)
    }

    @Test func theSecondTermSavesTooAndEndsTheConnection() throws {
        let image = try created("disk.vhd")
        let server = try ChildProcess(Product.path, ["mount", "-f", "-w", image, playground.mountpoint])
        #expect(playground.eventually { HostFiles.exists(disk(image)) })
        let descriptor = open(disk(image), O_RDWR | O_CLOEXEC)
        defer { close(descriptor) }
        #expect(pwrite(descriptor, bytes, bytes.count, 100_000) == bytes.count)
        server.signal(SIGTERM)
        #expect(try playground.eventually { try FUSE.mountinfo(playground.mountpoint) == nil })
        #expect(server.isRunning)
        server.signal(SIGTERM)
        let result = server.wait(timeout: 20)
        #expect(result.status == 0 && !result.timedOut, "\(result)")
        #expect(try content(image: image) == bytes)
    }

    @Test(.enabled(if: Tool.has("truncate", "dd"), "coreutils are missing"))
    func emptyingADiskIsRefusedOrDiscards() throws {
        let image = try created("disk.qcow2")
        #expect(try mount("-w", image).succeeded)
        try write(image)
        #expect(try !run("dd", "if=/dev/zero", "of=\(disk(image))", "bs=4k", "count=1").succeeded)
        #expect(try run("dd", "if=/dev/zero", "of=\(disk(image))", "bs=4k", "count=1", "conv=notrunc").succeeded)
        #expect(try !run("truncate", "-s", "1M", disk(image)).succeeded)
        #expect(try run("truncate", "-s", "8M", disk(image)).succeeded)
        #expect(try unmount().succeeded)
        #expect(try content(image: image) == bytes)
        #expect(try mount("-w", "-o", "truncate=discard", image).succeeded)
        #expect(try run("sh", "-c", ": > '\(disk(image))'").succeeded)
        #expect(try HostFiles.read(disk(image)).allSatisfy { $0 == 0 })
        #expect(try unmount().succeeded)
    }

    @Test(.enabled(if: geteuid() == 0 && Tool.has("unshare", "setpriv"), "needs root, unshare and setpriv"))
    func whatTheHostForbidsIsSaid() throws {
        let image = try created("disk.qcow2")
        let script = """
            mount --bind "$2" "$2" && mount -o remount,bind,ro "$2" || exit 99
            exec "$1" -w "$2/disk.qcow2" "$3"
            """
        let frozen = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, playground.directory.path, playground.mountpoint)
        #expect(frozen.status == 32 && frozen.errors.contains("read-only"), "\(frozen)")
        let program = playground.directory.file("platter")
        try runSuccessfully("cp", Product.path, program)
        chmod(playground.directory.path, 0o755)
        let denied = try run(
            "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program, "-w", image, playground.mountpoint)
        #expect(denied.status == 32 && denied.errors.contains("who may write"), "\(denied)")
    }

    @Test func aTemporaryOverlayThatCannotBeMadeNamesTheDirectory() throws {
        let image = try created("disk.qcow2")
        let refused = try Product.run(
            "--overlay", "tmp", image, playground.mountpoint, environment: ["TMPDIR": "/proc"])
        #expect(refused.status == 32 && refused.errors.hasPrefix("platter: /proc: "), "\(refused)")
        #expect(refused.errors.contains("TMPDIR") && !refused.errors.contains(".platter-overlay"), "\(refused)")
    }

    /// The metadata has its room before the bytes come: on a full host fsync goes on for what has its place, discards make
    /// room, and the mount ends.
    @Test(
        .enabled(if: FUSE.isThereForRoot && Tool.has("unshare", "dd", "fallocate"), "needs root and unshare"),
        arguments: ["vhdx", "vhd", "qcow2"])
    func aFullHostDiskIsEmptiedByDiscards(_ format: String) throws {
        let script = """
            host=$2/host; point=$2/mnt; mkdir -p $host; trap '"$1" umount --lazy $point 2>/dev/null' EXIT
            mount -t tmpfs -o size=24M none $host || exit 99
            "$1" create -q $host/disk.$3 64M && "$1" -w --log $2/log $host/disk.$3 $point || exit 98
            disk=$point/disk.$3.raw; dd if=/dev/urandom of=$2/first bs=1M count=4 2>/dev/null
            dd if=$2/first of=$disk bs=1M conv=notrunc,fsync 2>/dev/null || exit 97
            dd if=/dev/urandom of=$disk bs=1M seek=8 count=40 conv=notrunc,fsync 2>/dev/null && exit 96
            dd if=$2/first of=$disk bs=1M conv=notrunc,fsync 2>/dev/null || exit 95
            fallocate -p -o 8MiB -l 40MiB $disk && sync $disk || exit 94
            for try in 1 2 3 4 5 6 7 8 9 10; do
                [ $(stat -f -c %f $host) -ge 2048 ] && break; sleep 0.3; done
            dd if=$2/first of=$disk bs=1M seek=20 conv=notrunc,fsync 2>/dev/null || exit 93
            dd if=/dev/urandom of=$disk bs=1M seek=30 count=34 conv=notrunc,fsync 2>/dev/null && exit 92
            "$1" umount $point || exit 91
            "$1" check $host/disk.$3; status=$?
            [ $status = 0 ] || [ $status = 3 ] || exit 90
            "$1" $host/disk.$3 $point && cmp -n 4194304 $2/first $point/disk.$3.raw || exit 89
            cmp -n 4194304 -i 0:20971520 $2/first $point/disk.$3.raw || exit 88
            "$1" umount --wait $point; cat $2/log; [ $(grep -c error $2/log) -le 4 ] || exit 87
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, playground.directory.path, format, timeout: 120)
        #expect(result.succeeded, "\(result)")
    }

    /// A filesystem that knows no holes, and says so when the first is punched.
    @Test(.enabled(if: FUSE.isThereForRoot && Tool.has("unshare", "dd", "fallocate"), "needs root and unshare"))
    func aFilesystemWithoutHolesIsSaid() throws {
        let script = """
            host=$2/host; point=$2/mnt; mkdir -p $host; trap '"$1" umount --lazy $point 2>/dev/null' EXIT
            mount -t ramfs none $host || exit 99
            for format in vhdx vhd qcow2 raw; do
                disk=$point/disk.$format.raw; [ $format = raw ] && disk=$point/disk.raw
                "$1" create -q $host/disk.$format 16M || exit 98
                "$1" -w --log $2/log.$format $host/disk.$format $point >/dev/null || exit 97
                dd if=/dev/urandom of=$disk bs=1M count=8 conv=notrunc,fsync 2>/dev/null || exit 96
                for offset in 0 2 4; do fallocate -p -o ${offset}MiB -l 2MiB $disk && sync $disk || exit 95; done
                cmp -n 6291456 $disk /dev/zero || exit 94
                "$1" umount $point || exit 93
                [ $(grep -c 'cannot punch holes' $2/log.$format) = 1 ] || { cat $2/log.$format; exit 92; }
            done
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, playground.directory.path, timeout: 120)
        #expect(result.succeeded, "\(result)")
    }

    /// A user without a directory for notes: the server's process is known all the same, by the mount itself.
    @Test(.enabled(if: FUSE.isThereForRoot && Tool.has("unshare", "dd"), "needs root and unshare"))
    func umountWaitsForAServerThatCouldLeaveNoNote() throws {
        let script = """
            point=$2/mnt; mkdir -p /run/platter; mount -t tmpfs -o ro none /run/platter || exit 99
            trap '"$1" umount --lazy $point 2>/dev/null' EXIT
            "$1" create -q $2/disk.vhdx 64M && "$1" -w $2/disk.vhdx $point || exit 98
            pid=$(sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p' $point/.platter/status.json); [ -n "$pid" ] || exit 97
            dd if=/dev/urandom of=$point/disk.vhdx.raw bs=1M count=20 conv=notrunc 2>/dev/null
            "$1" umount $point || exit 96
            readlink /proc/$pid/exe && exit 95
            "$1" check $2/disk.vhdx
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, playground.directory.path, timeout: 60)
        #expect(result.succeeded, "\(result)")
    }

    /// The limit of a process on its files (ulimit -f, LimitFSIZE=) is an error to a writer too, and no signal that ends all.
    @Test(.enabled(if: Tool.has("sh", "dd"), "sh or dd is missing"), arguments: ["vhdx", "vhd", "qcow2"])
    func theLimitOnFilesIsAnErrorAndNotTheEnd(_ format: String) throws {
        let image = try created(
            "disk.\(format)", "-o", ["vhdx": "block_size=1M", "vhd": "subformat=dynamic"][format] ?? "cluster_size=64k")
        let mounted = try run(
            "sh", "-c", "ulimit -f \(format == "vhdx" ? 20480 : 14336); exec \"$@\"", "sh", Product.path, "-w", image,
            playground.mountpoint)
        #expect(mounted.succeeded, "\(mounted)")
        try write(image)
        let filled = try run(
            "dd", "if=/dev/urandom", "of=\(disk(image))", "bs=1M", "count=8", "conv=notrunc,fsync", timeout: 60)
        #expect(!filled.succeeded && filled.errors.contains("No space left"), "\(filled)")
        try write(image)
        #expect(try unmount().succeeded)
        #expect(try [0, 3].contains(Product.run("check", image).status))
        #expect(try content(image: image) == bytes)
    }

    /// The host runs full under a writer: an error for the writer, reads go on, and with room again writes do too.
    @Test(
        .enabled(if: FUSE.isThereForRoot && Tool.has("unshare", "dd"), "needs root and unshare"),
        arguments: ["vhdx", "vhd", "qcow2"])
    func aFullHostDiskIsAnErrorAndNotTheEnd(_ format: String) throws {
        let script = """
            host=$2/host; point=$2/mnt; mkdir -p $host; trap '"$1" umount --lazy $point 2>/dev/null' EXIT
            mount -t tmpfs -o size=24M none $host || exit 99
            "$1" create -q $host/disk.$3 64M && "$1" -w $host/disk.$3 $point || exit 98
            disk=$point/disk.$3.raw
            dd if=/dev/urandom of=$host/first bs=1M count=4 2>/dev/null
            dd if=$host/first of=$disk bs=1M conv=notrunc,fsync 2>/dev/null || exit 97
            dd if=/dev/urandom of=$disk bs=1M seek=8 count=40 conv=notrunc,fsync 2>/dev/null && exit 96
            cmp -n 4194304 $host/first $disk || exit 95
            mount -o remount,size=128M $host || exit 94
            dd if=$host/first of=$disk bs=1M seek=52 conv=notrunc,fsync || exit 93
            "$1" umount $point || exit 92
            "$1" check $host/disk.$3; status=$?
            [ $status = 0 ] || [ $status = 3 ] || exit 91
            "$1" $host/disk.$3 $point && cmp -n 4194304 $host/first $disk || exit 90
            cmp -n 4194304 -i 0:54525952 $host/first $disk || exit 89
            "$1" umount --wait $point
            """
        let result = try run(
            "unshare", "-m", "sh", "-c", script, "sh", Product.path, playground.directory.path, format, timeout: 120)
        #expect(result.succeeded, "\(result)")
    }
}
