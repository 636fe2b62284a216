internal import Glibc
import TestSupport
import Testing

/// `platter create`: what it makes, and what a user can do wrong.
@Suite struct CreateTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("create") }

    private func info(_ path: String) throws -> JSON {
        try JSON(parsing: try Product.run("info", "--json", path).output)
    }

    @Test(arguments: [
        ("qcow2", [], "disk.qcow2"), ("vhdx", [], "disk.vhdx"), ("vhd", [], "disk.vhd"), ("raw", [], "disk.raw"),
        ("vpc", [], "other"), ("QCOW2", ["-o", "cluster_size=4k"], "small"),
    ])
    func makesAnImageOfTheSize(_ format: String, _ options: [String], _ name: String) throws {
        let path = directory.file(name)
        let result = try ChildProcess(Product.path, ["create", "-f", format] + options + [path, "64M"]).wait()
        #expect(result.succeeded, "\(result)")
        #expect(result.text.hasPrefix(path) && result.text.contains("64 MiB"), "\(result)")
        let made = try info(path)
        let size = try #require(made["virtualSize"]?.uint64)
        // A VHD's size is that of its geometry where a format counts in cylinders.
        #expect(size >= 64 << 20 && size < 65 << 20)
        #expect(try HostFiles.list(directory.path) == [name])
        guard Tool.has("qemu-img") else { return }
        let word = ["vhd": "vpc"][format] ?? format.lowercased()
        let qemu = try JSON(
            parsing: Array(try runSuccessfully("qemu-img", "info", "--output=json", "-f", word, path).utf8))
        #expect(qemu["virtual-size"]?.uint64 == size)
    }

    @Test(arguments: ["disk.vhdx", "disk.avhdx", "disk.VHD", "disk.qcow2", "disk.img"])
    func theNameSaysWhichFormat(_ name: String) throws {
        let path = directory.file(name)
        #expect(try Product.run("create", "-q", path, "8M").succeeded)
        let formats = ["vhdx": "vhdx", "avhdx": "vhdx", "VHD": "vhd", "qcow2": "qcow2", "img": "raw"]
        #expect(try info(path)["format"]?.string == formats[String(name.split(separator: ".")[1])])
    }

    @Test func optionsAreListed() throws {
        for format in ["vhdx", "vhd", "qcow2"] {
            let result = try Product.run("create", "-f", format, "-o", "help")
            #expect(result.succeeded && result.text.split(separator: "\n").count > 2, "\(result)")
        }
        #expect(try Product.run("create", "-f", "qcow2", "-o", "help").text.contains("cluster_size="))
    }

    @Test(arguments: [
        (["-f", "qcow2", "-o", "colour=red", "a", "1G"], "colour"),
        (["-f", "qcow2", "-o", "cluster_size=banana", "a", "1G"], "cluster_size"),
        (["-f", "qcow2", "-o", "cluster_size=64k,cluster_size=4k", "a", "1G"], "twice"),
        (["-f", "zip", "a", "1G"], "zip"), (["a", "1G"], "-f"), (["a.qcow2", "much"], "much"),
        (["a.qcow2", "1G", "2G"], "2G"), (["a.qcow2"], "size"), (["-F", "raw", "a.qcow2", "1G"], "--parent"),
        (["-f", "vhd", "a", "3T"], "a"), (["a.qcow2", "-1"], "-1"),
    ])
    func whatTheUserGotWrongIsNamedInOneLine(_ arguments: [String], _ word: String) throws {
        let result = try ChildProcess(Product.path, ["create"] + arguments, directory: directory.path).wait()
        #expect(result.status == 1, "\(result)")
        #expect(result.errors.split(separator: "\n").count == 1 && result.errors.contains(word), "\(result)")
        #expect(try HostFiles.list(directory.path).isEmpty)
    }

    @Test func aFileThatIsThereStays() throws {
        let path = try directory.write([1, 2, 3], to: "disk.qcow2")
        let refused = try Product.run("create", path, "8M")
        #expect(refused.status == 2 && refused.errors.contains("exists already"), "\(refused)")
        #expect(try HostFiles.read(path) == [1, 2, 3])
        let forced = try Product.run("create", "--force", path, "8M")
        #expect(forced.succeeded, "\(forced)")
        #expect(try info(path)["format"]?.string == "qcow2")
        #expect(try HostFiles.list(directory.path) == ["disk.qcow2"])
        let folder = try Product.run("create", "--force", "-f", "qcow2", directory.path, "8M")
        #expect(folder.status == 2 && folder.errors.contains("not a regular file"), "\(folder)")
    }

    @Test(.enabled(if: Tool.has("qemu-io"), "qemu-io is missing"))
    func anImageInUseIsNotReplaced() throws {
        let path = directory.file("live.qcow2")
        #expect(try Product.run("create", "-q", path, "8M").succeeded)
        let qemu = try ChildProcess("sh", ["-c", "sleep 30 | qemu-io -f qcow2 '\(path)'"])
        defer { qemu.stop(SIGKILL) }
        var result = try Product.run("list")
        for _ in 0..<200 {
            // Until qemu holds its locks, a check may have the image.
            result = try Product.run("check", path)
            if result.status == 1 { break }
            usleep(20_000)
        }
        #expect(result.status == 1 && result.errors.contains("qemu-io"), "\(result)")
        let refused = try Product.run("create", "--force", path, "8M")
        #expect(refused.status == 2 && refused.errors.contains("another program"), "\(refused)")
    }

    @Test func aChildNamesItsParentFromItsOwnDirectory() throws {
        for format in ["qcow2", "vhdx", "vhd"] {
            let base = directory.file("base.\(format)")
            #expect(try Product.run("create", "-q", base, "16M").succeeded)
            mkdir(directory.file("sub"), 0o755)
            let child = directory.file("sub/child.\(format)")
            let made = try Product.run("create", "--parent", base, child)
            #expect(made.succeeded, "\(made)")
            let chain = try JSON(
                parsing: try Product.run(
                    "info", "--json", "--chain", "-o", "allow-parents=\(directory.path)", child
                ).output)
            #expect(chain[0]?["virtualSize"]?.uint64 == chain[1]?["virtualSize"]?.uint64, "\(format)")
            #expect(chain[1]?["image"]?.string == base, "\(format)")
            let recorded = try #require(chain[0]?["parent"]?["recorded"]?.array).compactMap(\.string)
            #expect(
                recorded.contains { $0.replacing("\\", with: "/").hasSuffix("../base.\(format)") }, "\(recorded)")
        }
    }

    @Test func aParentThatCannotBeUsedIsNamed() throws {
        let child = directory.file("child.qcow2")
        let missing = try Product.run("create", "--parent", directory.file("none.qcow2"), child)
        #expect(missing.status == 2 && missing.errors.contains("none.qcow2"), "\(missing)")
        let text = try directory.write(Array("no image at all".utf8), to: "text")
        let wrong = try Product.run("create", "--parent", text, child)
        #expect(wrong.status == 2 && wrong.errors.contains("text"), "\(wrong)")
        let base = directory.file("base.qcow2")
        #expect(try Product.run("create", "-q", base, "8M").succeeded)
        let own = try Product.run("create", "--force", "--parent", base, base)
        #expect(own.status == 2 && own.errors.contains("its own parent"), "\(own)")
        #expect(try HostFiles.list(directory.path) == ["base.qcow2", "text"])
    }

    @Test(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
    func qemuOpensAChildOnARawParent() throws {
        let base = directory.file("base.raw")
        try HostFiles.truncate(base, to: 8 << 20)
        let child = directory.file("child.qcow2")
        let made = try Product.run("create", "-q", "-o", "backing_file=\(base),backing_fmt=raw", child)
        #expect(made.succeeded, "\(made)")
        let info = try JSON(parsing: Array(try runSuccessfully("qemu-img", "info", "--output=json", child).utf8))
        #expect(info["backing-filename"]?.string == "base.raw")
        #expect(info["backing-filename-format"]?.string == "raw")
        #expect(try runSuccessfully("qemu-img", "compare", base, child).contains("identical"))
    }

    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv", "unshare"), "needs root, setpriv and unshare"))
    func whatTheHostRefusesLeavesNothing() throws {
        let nowhere = try Product.run("create", directory.file("none/disk.qcow2"), "8M")
        #expect(nowhere.status == 2 && nowhere.errors.contains("no such file"), "\(nowhere)")
        // The product may lie where this user cannot go.
        let program = directory.file("platter")
        try runSuccessfully("cp", Product.path, program)
        chmod(directory.path, 0o755)
        let denied = try run(
            "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program, "create",
            directory.file("disk.qcow2"), "8M")
        #expect(denied.status == 2 && denied.errors.contains("permission denied"), "\(denied)")
        let script = """
            mount -t tmpfs -o size=256k none "$2" || exit 99
            "$1" create "$2/disk.qcow2" 64M -o preallocation=full; status=$?
            ls -A "$2"; mount -o remount,ro "$2"; "$1" create "$2/disk.raw" 1M; exit $status
            """
        let point = directory.file("small")
        mkdir(point, 0o755)
        let full = try run("unshare", "-m", "sh", "-c", script, "sh", program, point)
        #expect(full.status == 2 && full.errors.contains("No space left"), "\(full)")
        #expect(full.errors.contains("read-only"), "\(full)")
        #expect(full.text.isEmpty, "\(full)")
    }

    /// Killed at any moment, it leaves no file at all: what has no name yet ends with its process.
    @Test func aKilledCreationLeavesNothing() throws {
        for round in 0..<6 {
            let path = directory.file("disk.qcow2")
            let creation = try ChildProcess(
                Product.path, ["create", "-q", path, "256M", "-o", "preallocation=full"])
            usleep(UInt32(round) * 30_000)
            creation.stop(SIGKILL)
            let left = try HostFiles.list(directory.path)
            if left.isEmpty { continue }
            // It was quicker than the signal: then all of it is there.
            #expect(left == ["disk.qcow2"])
            #expect(try Product.run("check", path).status == 0)
            unlink(path)
        }
    }
}
