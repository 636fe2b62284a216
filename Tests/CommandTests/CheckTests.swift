internal import Glibc
import TestSupport
import Testing

/// `platter check`: its words, its exit statuses, its repairs.
@Suite struct CheckTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("check") }

    private func check(_ arguments: String...) throws -> CommandResult {
        try ChildProcess(Product.path, ["check"] + arguments).wait()
    }

    private func created(_ name: String) throws -> String {
        let path = directory.file(name)
        let result = try Product.run("create", "-q", path, "16M")
        guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
        return path
    }

    /// A big-endian number of a file.
    private func number(_ path: String, at offset: Int64) throws -> UInt64 {
        try HostFiles.read(path)[Int(offset)..<Int(offset) + 8].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Gives a cluster at the end of a qcow2 file a reference count, and nothing that uses it.
    private func leak(_ path: String) throws {
        let table = try number(path, at: 48)
        let block = try number(path, at: Int64(table))
        let size = UInt64(try HostFiles.read(path).count)
        let cluster = (size + 0xFFFF) >> 16
        try HostFiles.truncate(path, to: (cluster + 1) << 16)
        try HostFiles.patch([0, 1], at: Int64(block + cluster * 2), of: path)
    }

    @Test(arguments: ["disk.qcow2", "disk.vhdx", "disk.vhd"])
    func aNewImageIsClean(_ name: String) throws {
        let path = try created(name)
        let before = try HostFiles.read(path)
        let result = try check(path)
        #expect(result.status == 0 && result.text.contains("clean"), "\(result)")
        let json = try JSON(parsing: check("--json", path).output)
        #expect(json["corruptions"]?.uint64 == 0 && json["leaks"]?.uint64 == 0)
        #expect(json["image"]?.string == path)
        let repaired = try check("--repair", path)
        #expect(repaired.status == 0, "\(repaired)")
        #expect(try HostFiles.read(path) == before, "a repair of a clean image changes nothing")
    }

    @Test func leaksAreStatus3AndAreRepaired() throws {
        let path = try created("disk.qcow2")
        try leak(path)
        let found = try check(path)
        #expect(found.status == 3 && found.text.contains("leak") && found.text.contains("at byte"), "\(found)")
        let json = try JSON(parsing: check("--json", path).output)
        #expect(json["leaks"]?.uint64 == 1 && json["corruptions"]?.uint64 == 0)
        #expect(json["findings"]?[0]?["severity"]?.string == "leak")
        let repaired = try check("--repair", path)
        #expect(repaired.status == 0 && repaired.text.contains("repaired"), "\(repaired)")
        #expect(try check(path).status == 0)
        if Tool.has("qemu-img") { #expect(try run("qemu-img", "check", path).status == 0) }
    }

    @Test func corruptionIsStatus2() throws {
        let path = try created("disk.qcow2")
        let table = Int64(try number(path, at: 40))
        // An L2 table that begins in the middle of a cluster.
        try HostFiles.patch([0x80, 0, 0, 0, 0, 0, 0x12, 0], at: table, of: path)
        let result = try check(path)
        #expect(result.status == 2 && result.text.contains("corruption"), "\(result)")
    }

    @Test func whatCannotBeCheckedIsStatus1() throws {
        let text = try directory.write(Array("no image at all".utf8), to: "text.vhdx")
        let cut = try created("cut.qcow2")
        try HostFiles.truncate(cut, to: 60)
        let cases = [
            (directory.file("none.vhdx"), "no such file"), (text, "not a VHDX"), (directory.path, "directory"),
            (cut, cut),
        ]
        for (path, reason) in cases {
            let result = try check(path)
            #expect(result.status == 1 && result.errors.contains(reason), "\(result)")
            #expect(result.errors.split(separator: "\n").count == 1, "\(result)")
        }
    }

    @Test func theChainIsCheckedWhenAsked() throws {
        let base = try created("base.qcow2")
        let child = directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "--parent", base, child).succeeded)
        try leak(base)
        #expect(try check(child).status == 0)
        let chain = try check("--chain", "--json", child)
        #expect(chain.status == 3, "\(chain)")
        #expect(try JSON(parsing: chain.output)[1]?["image"]?.string == base)
    }

    @Test(.enabled(if: geteuid() == 0 && Tool.has("setpriv"), "needs root and setpriv"))
    func aRepairNeedsTheRightToWrite() throws {
        let path = try created("disk.qcow2")
        let program = directory.file("platter")
        try runSuccessfully("cp", Product.path, program)
        chmod(directory.path, 0o755)
        let result = try run(
            "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program, "check", "--repair", path)
        #expect(result.status == 1 && result.errors.contains("who may write"), "\(result)")
    }
}
