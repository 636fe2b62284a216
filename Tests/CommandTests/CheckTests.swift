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
        #expect(
            found.status == 3 && found.text.contains("leak")
                && found.text.contains("cluster 4 (byte 0x40000), used 0 times, refcount 1"), "\(found)")
        let json = try JSON(parsing: check("--json", path).output)
        #expect(json["leaks"]?.uint64 == 1 && json["corruptions"]?.uint64 == 0)
        #expect(json["findings"]?[0]?["severity"]?.string == "leak")
        let repaired = try check("--repair", path)
        #expect(repaired.status == 0 && repaired.text.contains("repaired"), "\(repaired)")
        #expect(try check(path).status == 0)
        if Tool.has("qemu-img") { #expect(try run("qemu-img", "check", path).status == 0) }
    }

    /// Programs read one value where a check is not possible too; the images above are in it.
    @Test func aKindThatCannotBeCheckedIsStatus63AndOneValue() throws {
        // The header of a first qcow of 1 MiB: clusters of 4 KiB, an L1 table of nothing at 48.
        var bytes: [UInt8] = [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 1] + [UInt8](repeating: 0, count: 1016)
        bytes.replaceSubrange(24..<34, with: [0, 0, 0, 0, 0, 0x10, 0, 0, 12, 9])
        bytes[47] = 48
        let old = try directory.write(bytes, to: "old.qcow")
        let words = try check("--json", old)
        #expect(words.status == 63 && words.errors.contains("cannot be checked"), "\(words)")
        let json = try JSON(parsing: words.output)
        #expect(json["image"]?.string == old && json["format"]?.string == "qcow", "\(json)")
        #expect(json["corruptions"] == .null && json["findings"]?.array?.count == 0, "\(json)")
        #expect(json["error"]?.string?.contains("cannot be checked") == true, "\(json)")
        #expect(try check(old).output.isEmpty)
        let child = directory.file("child.qcow2")
        #expect(try Product.run("create", "-q", "-b", old, child).succeeded)
        let chain = try check("--json", "--chain", child)
        #expect(chain.status == 63, "\(chain)")
        let images = try #require(try JSON(parsing: chain.output).array)
        #expect(images.map { $0["format"]?.string } == ["qcow2", "qcow"], "\(chain)")
        #expect(images[0]["corruptions"]?.uint64 == 0 && images[0]["error"] == .null, "\(chain)")
    }

    @Test func corruptionIsStatus2() throws {
        let path = try created("disk.qcow2")
        let table = Int64(try number(path, at: 40))
        // An L2 table that begins in the middle of a cluster.
        try HostFiles.patch([0x80, 0, 0, 0, 0, 0, 0x12, 0], at: table, of: path)
        let result = try check(path)
        #expect(result.status == 2 && result.text.contains("corruption"), "\(result)")
    }

    /// Two hundred wrong entries are a line, and all of them are there for who asks.
    @Test func findingsOfOneKindAreOneLine() throws {
        let path = try created("disk.vhd")
        var entries: [UInt8] = []
        for _ in 0..<8 { entries += [0, 0, 0, 1] }
        try HostFiles.patch(entries, at: Int64(try number(path, at: 512 + 16)), of: path)
        let result = try check(path)
        let table = String(try number(path, at: 512 + 16), radix: 16)
        #expect(
            result.text.split(separator: "\n").first.map(String.init)
                == "corruption: a block lies past the end of the file, 8 times: BAT entry 0 (byte 0x\(table)); "
                + "BAT entry 1 (byte 0x\(String(try number(path, at: 528) + 4, radix: 16))); "
                + "BAT entry 2 (byte 0x\(String(try number(path, at: 528) + 8, radix: 16))); and 5 more", "\(result)")
        #expect(result.status == 2 && result.text.contains(": 8 corruptions; vhd"), "\(result)")
        let all = try check("-v", path)
        #expect(all.text.contains("8 times\n    BAT entry 0 (byte") && all.text.contains("\n    BAT entry 7 (byte"))
        let found = try #require(JSON(parsing: check("--json", path).output)["findings"]?[0])
        #expect(found["count"]?.uint64 == 8 && found["severity"]?.string == "corruption")
        #expect(found["places"]?[7]?["entry"]?.string == "BAT entry 7" && found["repaired"] != nil)
        #expect(try found["places"]?[7]?["offset"]?.uint64 == number(path, at: 528) + 28)
    }

    /// A dynamic VHD whose bits call absent what is there: the check says so, and the option shows it.
    @Test func whatBitmapsHideIsSaid() throws {
        let path = try created("disk.vhd")
        #expect(try check(path).text.split(separator: "\n").count == 1)
        let table = Int64(try number(path, at: 528))
        let end = Int(try HostFiles.read(path).count) - 512
        let footer = Array(try HostFiles.read(path).suffix(512))
        let block = [UInt8](repeating: 0, count: 512) + [UInt8](repeating: 0x41, count: 2 << 20)
        try HostFiles.patch(block + footer, at: Int64(end), of: path)
        try HostFiles.patch(withUnsafeBytes(of: UInt32(end / 512).bigEndian, Array.init), at: table, of: path)
        let result = try check(path)
        #expect(result.status == 0 && result.text.contains("its bitmap calls absent"), "\(result)")
        #expect(result.text.contains("BAT entry 0") && result.text.contains("-o vhd-bitmap=ignore"), "\(result)")
        let byBits = try JSON(parsing: Product.run("map", "--json", path).output)
        #expect(byBits[0]?["place"]?.string == "zero")
        let byData = try JSON(parsing: Product.run("map", "--json", "-o", "vhd-bitmap=ignore", path).output)
        #expect(byData[0]?["place"]?.string == "data")
        #expect(byData[0]?["offset"]?.uint64 == UInt64(end) + 512 && byData[0]?["length"]?.uint64 == 2 << 20)
        #expect(try Product.run("info", path).text.contains("-o vhd-bitmap=ignore"))
        let wrong = try Product.run("info", "-o", "vhd-bitmap=what", path)
        #expect(wrong.status == 1 && wrong.errors.contains("one of honour, ignore"), "\(wrong)")
    }

    /// What QEMU makes is clean, without a word more.
    @Test(
        .enabled(if: Tool.has("qemu-img", "qemu-io"), "needs qemu-img and qemu-io"),
        arguments: [
            ("qcow2", ""), ("qcow2", "compat=0.10"), ("qcow2", "cluster_size=512"), ("qcow2", "cluster_size=2M"),
            ("qcow2", "extended_l2=on"), ("qcow2", "lazy_refcounts=on"), ("qcow2", "refcount_bits=64"),
            ("qcow2", "preallocation=full"), ("vhdx", ""), ("vhdx", "subformat=fixed"), ("vhdx", "block_size=1M"),
            ("vhdx", "block_state_zero=off"), ("vpc", ""), ("vpc", "subformat=fixed"), ("vpc", "force_size=on"),
            ("vpc", "force_size=on,subformat=fixed"),
        ])
    func healthyImagesOfQEMUAreCleanAndNothingElse(_ format: String, _ options: String) throws {
        let path = directory.file("disk." + (format == "vpc" ? "vhd" : format))
        let list = options.isEmpty ? [] : ["-o", options]
        let made = try ChildProcess("qemu-img", ["create", "-q", "-f", format] + list + [path, "65M"]).wait()
        #expect(made.succeeded, "\(made)")
        func expectSilence(_ when: String) throws {
            let result = try check(path)
            #expect(result.status == 0 && result.text.hasPrefix("\(path): clean; "), "\(when): \(result)")
            #expect(result.text.split(separator: "\n").count == 1, "\(when): \(result)")
        }
        try expectSilence("new")
        let written = try run(
            "qemu-io", "-f", format, "-c", "write -P 1 0 1M", "-c", "write -P 2 20M 3000000", "-c", "write -z 21M 1M",
            "-c", "discard 20M 2M", "-c", "write -P 4 63M 64k", path)
        #expect(written.succeeded, "\(written)")
        try expectSilence("written")
        guard format == "qcow2" else { return }
        try runSuccessfully("qemu-img", "snapshot", "-c", "one", path)
        #expect(try run("qemu-io", "-f", format, "-c", "write -P 5 0 3M", "-c", "discard 63M 1M", path).succeeded)
        try runSuccessfully("qemu-img", "snapshot", "-c", "two", path)
        try runSuccessfully("qemu-img", "snapshot", "-d", "one", path)
        try expectSilence("with snapshots")
    }

    @Test func whatCannotBeCheckedIsStatus1() throws {
        let text = try directory.write(Array("no image at all".utf8), to: "text.vhdx")
        let cut = try created("cut.qcow2")
        try HostFiles.truncate(cut, to: 60)
        let cases = [
            (directory.file("none.vhdx"), "no such file"), (text, "holds text and no disk image"),
            (directory.path, "directory"),
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
