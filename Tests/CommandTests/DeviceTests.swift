import Glibc
import TestSupport
import Testing

/// Block devices: as parents, and as what `create --force` makes an image of. A device is a loop device over a file.
@Suite(.enabled(if: LoopDevice.isUsable, LoopDevice.skipReason), .serialized)
struct DeviceTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("device") }

    private static let bytes = 16 << 20

    /// A device full of what somebody left there.
    private func device(_ name: String = "file") throws -> LoopDevice {
        let path = directory.file(name)
        var random = SeededRandom(seed: 11)
        let piece = random.bytes(1 << 20)
        try HostFiles.write(Array((0..<(Self.bytes >> 20)).flatMap { _ in piece }), to: path)
        return try LoopDevice(path)
    }

    private static let kinds: [[String]] = [
        ["-f", "qcow2"], ["-f", "qcow2", "-o", "extended_l2=on"], ["-f", "qcow2", "-o", "preallocation=full"],
        ["-f", "vhdx"], ["-f", "vhdx", "-o", "subformat=fixed"], ["-f", "vhd"], ["-f", "vhd", "-o", "subformat=fixed"],
    ]

    private func create(_ arguments: [String], _ path: String, _ size: String = "4M") throws -> CommandResult {
        try ChildProcess(Product.path, ["create"] + arguments + [path, size]).wait(timeout: 60)
    }

    // MARK: - create

    @Test(arguments: kinds) func nothingOfWhatWasThereShows(_ arguments: [String]) throws {
        let device = try device()
        let made = try create(["--force"] + arguments, device.path)
        #expect(made.succeeded, "\(made)")
        let info = try JSON(parsing: Product.run("info", "--json", device.path).output)
        #expect(info["format"]?.string == arguments[1])
        #expect(try #require(info["virtualSize"]?.uint64) == 4 << 20)
        let check = try Product.run("check", device.path)
        #expect(check.succeeded, "\(check)")
        #expect(try content(of: device.path).allSatisfy { $0 == 0 })
    }

    /// The disk of an image, run by run of its map.
    private func content(of path: String) throws -> [UInt8] {
        let bytes = try HostFiles.read(path)
        var disk: [UInt8] = []
        for run in try #require(try JSON(parsing: Product.run("map", "--json", path).output).array) {
            let length = Int(try #require(run["length"]?.uint64))
            guard let offset = run["offset"]?.uint64 else {
                disk += [UInt8](repeating: 0, count: length)
                continue
            }
            disk += bytes[Int(offset)..<(Int(offset) + length)]
        }
        #expect(disk.count == 4 << 20)
        return disk
    }

    @Test func aDeviceIsTakenOnlyByForceAndWhenNobodyUsesIt() throws {
        let device = try device()
        let before = try HostFiles.read(device.path)
        let refused = try create(["-f", "qcow2"], device.path)
        #expect(refused.status == 2 && refused.errors.contains("--force"), "\(refused)")
        for arguments in [
            ["-f", "raw"], ["-f", "vhdx", "-o", "subformat=fixed"], ["-f", "vhd", "-o", "subformat=fixed"],
        ] {
            let small = try create(["--force"] + arguments, device.path, "32M")
            #expect(small.status == 2 && small.errors.contains("smaller than the image"), "\(small)")
        }
        #expect(try HostFiles.read(device.path)[(1 << 20)..<(2 << 20)] == before[(1 << 20)..<(2 << 20)])
        try #require(Tool.has("mkfs.ext4", "mount"), "mkfs.ext4 or mount is missing")
        try runSuccessfully("mkfs.ext4", "-q", "-F", device.path)
        mkdir(directory.file("point"), 0o755)
        try runSuccessfully("mount", device.path, directory.file("point"))
        let busy = try create(["--force", "-f", "qcow2"], device.path)
        try runSuccessfully("umount", directory.file("point"))
        #expect(busy.status == 2 && busy.errors.contains("in use"), "\(busy)")
        try runSuccessfully("e2fsck", "-fn", device.path)
    }

    /// A raw disk is the device itself, and is emptied as the others are.
    @Test func aRawDiskIsEmpty() throws {
        let device = try device()
        #expect(try create(["--force", "-f", "raw"], device.path, "16M").succeeded)
        #expect(try HostFiles.read(device.path).allSatisfy { $0 == 0 })
    }

    /// The two ends of the device tell what it is: they go last, behind a barrier.
    @Test(
        .enabled(if: Traced.isUsable, Traced.skipReason), arguments: kinds, [["pwrite64", "fallocate"], ["fdatasync"]])
    func aKillAtAnyCallLeavesNoImageOrAWholeOne(_ arguments: [String], _ calls: [String]) throws {
        let device = try device()
        var wholes = 0
        var number = 1
        while true {
            #expect(try create(["--force", "-f", "raw"], device.path).succeeded)
            let inject = "inject=\(calls.joined(separator: ",")):signal=SIGKILL:when=\(number)"
            let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=\(calls.joined(separator: ","))", "-e", inject]
            let creation = [Product.path, "create", "-q", "--force"] + arguments + [device.path, "4M"]
            let result = try ChildProcess("strace", strace + creation).wait(timeout: 60)
            if result.succeeded { break }
            #expect(result.status == 128 + SIGKILL, "\(result)")
            let info = try Product.run("info", "--json", device.path)
            if info.succeeded {
                wholes += 1
                #expect(try JSON(parsing: info.output)["format"]?.string == arguments[1], "\(info)")
                let check = try Product.run("check", device.path)
                #expect(check.succeeded, "killed at call \(number): \(check)")
            }
            number += 1
            try #require(number < 200, "the program never ends")
        }
        #expect(number > 4)
        // What was written last is there before it is durable.
        if calls == ["fdatasync"] { #expect(wholes > 0) }
    }

    /// A mistyped option or size must not cost what is on the device.
    @Test(arguments: [["-f", "vhdx", "-o", "block_size=777", "4M"], ["-f", "raw", "1T"], ["-f", "vhd", "4E"]])
    func whatIsRefusedLeavesTheDeviceAsItWas(_ arguments: [String]) throws {
        let device = try device()
        let before = try HostFiles.read(device.path)
        let head = [UInt8](repeating: 0x5A, count: 4096)
        try HostFiles.patch(head, at: 0, of: device.path)
        let create = ["create", "-q", "--force"] + arguments.dropLast() + [device.path, arguments.last ?? ""]
        #expect(try !ChildProcess(Product.path, create).wait(timeout: 60).succeeded)
        #expect(try HostFiles.read(device.path) == head + before.dropFirst(4096))
    }

    /// A loss of power leaves what was flushed, and any part of the rest.
    @Test(.enabled(if: Traced.isUsable, Traced.skipReason), arguments: kinds)
    func bothEndsAreClearedFirstAndWrittenLast(_ arguments: [String]) throws {
        let device = try device()
        let log = directory.file("log")
        let strace = ["-f", "-qq", "-s", "0", "-o", log, "-e", "trace=\(Traced.changes.joined(separator: ","))"]
        let creation = [Product.path, "create", "-q", "--force"] + arguments + [device.path, "4M"]
        #expect(try ChildProcess("strace", strace + creation).wait(timeout: 60).succeeded)
        // "PID pwrite64(3, ""..., 4096, 0) = 4096"
        let calls = try HostFiles.text(log).split(separator: "\n").map { line in
            // Short process ids are padded.
            let call = line.split(separator: " ", maxSplits: 1)[1].drop { $0 == " " }.split(
                separator: "(", maxSplits: 1)
            let values = call[1].split(separator: ")")[0].split(separator: ", ")
            return call[0] == "pwrite64" ? "write \(values[values.count - 1])" : String(call[0])
        }.filter { $0 != "fsync" }
        let tail = "write \(Self.bytes - 4096)"
        let ends = [tail, "fdatasync", "write 0", "fdatasync"]
        #expect(Array(calls.prefix(5)) == ["fdatasync"] + ends, "\(calls.prefix(6))")
        #expect(Array(calls.suffix(5)) == ["fdatasync"] + ends, "\(calls.suffix(6))")
        #expect(!calls.dropFirst(5).dropLast(5).contains { $0 == "write 0" || $0 == tail })
    }

    // MARK: - Parents

    @Test func aDeviceIsAParentWhereTheUserAllowsIt() throws {
        let device = try device()
        #expect(try create(["--force", "-f", "qcow2"], device.path).succeeded)
        let child = directory.file("child.qcow2")
        let made = try ChildProcess(
            Product.path, ["create", "-q", "--parent", device.path, "--parent-path", device.path, child]
        ).wait()
        #expect(made.succeeded, "\(made)")
        let refused = try Product.run("map", "-o", "max-layers=2", "--allow-parents", directory.path, child)
        #expect(refused.errors.contains("--allow-parents DIR") && refused.errors.contains("DIR = /dev"), "\(refused)")
        for options in [["--allow-parents", "/dev"], ["-o", "parent=\(device.path)"]] {
            let result = try ChildProcess(Product.path, ["map", "--json"] + options + [child]).wait()
            #expect(result.succeeded && result.errors.isEmpty, "\(result)")
            #expect(try JSON(parsing: result.output)[0]?["place"]?.string == "hole")
        }
        // A link to a device in a directory that is not for devices opens nothing.
        symlink(device.path, directory.file("link"))
        let over = directory.file("over.qcow2")
        let linked = try ChildProcess(
            Product.path, ["create", "-q", "--parent", device.path, "--parent-path", "link", over]
        ).wait()
        #expect(linked.succeeded, "\(linked)")
        #expect(try Product.run("map", over).errors.contains("link that leads outside"))
    }

    /// The directory of an image on a device is /dev, and that alone permits nothing.
    @Test func anImageOnADeviceOpensNoOther() throws {
        let (base, top) = (try device("base"), try device("top"))
        #expect(try create(["--force", "-f", "qcow2"], base.path).succeeded)
        let made = try ChildProcess(
            Product.path, ["create", "-q", "--force", "-f", "qcow2", "--parent", base.path, top.path]
        ).wait()
        #expect(made.succeeded, "\(made)")
        let refused = try Product.run("map", top.path)
        #expect(
            refused.errors.contains("block device") && refused.errors.contains("--allow-parents /dev"), "\(refused)")
        let allowed = try Product.run("map", "--allow-parents", "/dev", top.path)
        #expect(allowed.succeeded && allowed.errors.isEmpty, "\(allowed)")
    }

    /// Opening some devices does something: /dev/watchdog starts a countdown. They are only looked at.
    @Test func otherDevicesAreNotOpened() throws {
        let child = directory.file("child.qcow2")
        let base = try directory.write([UInt8](repeating: 0, count: 512), to: "base.raw")
        let made = try ChildProcess(
            Product.path, ["create", "-q", "--parent", base, "--parent-path", "/dev/null", child]
        ).wait()
        #expect(made.succeeded, "\(made)")
        let result = try ChildProcess(
            "strace",
            [
                "-f", "-qq", "-y", "-o", directory.file("log"), "-e", "trace=openat2,openat", Product.path, "map",
                "--allow-parents", "/dev", child,
            ]
        ).wait()
        #expect(result.errors.contains("neither a regular file nor a block device"), "\(result)")
        let opened = try HostFiles.text(directory.file("log")).split(separator: "\n").filter { $0.contains("\"null\"") }
        #expect(!opened.isEmpty && opened.allSatisfy { $0.contains("O_PATH") }, "\(opened)")
    }

    @Test func aVHDThatGrowsIsOnlyReadThere() throws {
        let device = try device()
        #expect(try create(["--force", "-f", "vhd"], device.path).succeeded)
        mkdir(directory.file("mnt"), 0o755)
        let refused = try Product.run("mount", "-w", device.path, directory.file("mnt"))
        #expect(refused.status == 32 && refused.errors.contains("only be read on a block device"), "\(refused)")
    }
}

/// A loop device over a file, detached with the last reference.
final class LoopDevice: Sendable {
    static let skipReason: Comment = "needs root and losetup"
    static let isUsable =
        geteuid() == 0 && Tool.has("losetup") && (try? ChildProcess("losetup", ["-f"]).wait())?.succeeded == true

    /// The path of the device.
    let path: String

    init(_ file: String) throws {
        path = try runSuccessfully("losetup", "-f", "--show", file).split(separator: "\n").map(String.init)[0]
    }

    deinit { _ = try? TestSupport.run("losetup", "-d", path) }
}
