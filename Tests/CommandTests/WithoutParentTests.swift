import Formats
import Glibc
import TestSupport
import Testing

/// What can be learnt of an image whose parent is not there: `info`, `map` and `check` go on without it and say so.
@Suite struct WithoutParentTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("orphan") }

    private func mountpoint() throws -> String {
        let path = directory.file("point")
        guard mkdir(path, 0o755) == 0 else { throw HostFailure("mkdir") }
        return path
    }

    /// A child of a parent of 8 MiB, both in the format of `ending`, and the identity that the child records.
    private func child(_ ending: String) throws -> (parent: String, child: String, identity: String?) {
        let parent = directory.file("parent.\(ending)")
        let child = directory.file("child.\(ending)")
        for arguments in [["create", "-q", parent, "8M"], ["create", "-q", "--parent", parent, child]] {
            let made = try ChildProcess(Product.path, arguments).wait()
            #expect(made.succeeded, "\(made)")
        }
        let facts = try JSON(parsing: Product.run("info", "--json", child).output)["parent"]
        return (parent, child, facts?["identities"]?[0]?.string)
    }

    @Test(arguments: ["qcow2", "vhdx", "vhd"])
    func infoSaysWhatTheImageIsAndWhatItsParentMustBe(_ ending: String) throws {
        let (parent, child, identity) = try child(ending)
        let whole = try JSON(parsing: Product.run("info", "--json", child).output)
        #expect(whole["parent"]?["path"]?.string == parent)
        #expect(whole["parent"]?["error"] == .null)
        #expect((identity == nil) == (ending == "qcow2"))
        unlink(parent)
        let result = try Product.run("info", child)
        #expect(result.status == 0 && result.errors.isEmpty, "\(result)")
        for word in ["virtual size:", "8388608 bytes", "cannot be opened", "is missing", "parent.\(ending)"] {
            #expect(result.text.contains(word), "\(word): \(result)")
        }
        if let identity { #expect(result.text.contains(identity), "\(result)") }
        let answer = try Product.run("info", "--json", child)
        #expect(answer.errors.isEmpty, "\(answer)")
        let json = try JSON(parsing: answer.output)
        #expect(json["parent"]?["path"] == .null)
        #expect(json["parent"]?["error"]?.string?.contains("missing") == true)
        #expect(json["parent"]?["recorded"]?[0]?.string?.contains("parent.\(ending)") == true)
        #expect(json["parent"]?["identities"]?[0]?.string == identity)
        #expect(json["virtualSize"]?.uint64 == 8 << 20)
        #expect(json["allocatedBytes"]?.uint64 == whole["allocatedBytes"]?.uint64, "the image's own space")
        let chain = try JSON(parsing: Product.run("info", "--json", "--chain", child).output)
        #expect(chain.array?.count == 1)
    }

    @Test(arguments: ["vhdx", "vhd"])
    func theIdentityIsThatOfTheParentsOwnFacts(_ ending: String) throws {
        let (parent, _, identity) = try child(ending)
        let parentText = try Product.run("info", parent).text
        #expect(parentText.contains(try #require(identity)), "\(parentText)")
    }

    @Test func anUnrelatedParentIsNamedWithWhatIsExpected() throws {
        let (parent, child, identity) = try child("vhdx")
        unlink(parent)
        #expect(try Product.run("create", "-q", parent, "8M").succeeded)
        let result = try Product.run("info", child)
        #expect(result.status == 0 && result.text.contains("not the parent"), "\(result)")
        #expect(result.text.contains(try #require(identity)), "\(result)")
    }

    @Test func theMapIsThatOfTheImageAlone() throws {
        let (parent, child, _) = try child("vhd")
        // A whole block of the child: its bitmap says that all of it is there.
        let block = UInt64(try HostFiles.read(child).count - 512)
        let table = try tableOffset(child)
        let footer = Array(try HostFiles.read(child).suffix(512))
        try HostFiles.patch([UInt8](repeating: 0xFF, count: 512), at: Int64(block), of: child)
        try HostFiles.truncate(child, to: block + 512 + (2 << 20))
        try HostFiles.patch(footer, at: Int64(block + 512 + (2 << 20)), of: child)
        try HostFiles.patch(bigEndian(UInt32(block / 512)), at: Int64(table), of: child)
        let whole = try #require(try JSON(parsing: Product.run("map", "--json", child).output).array)
        #expect(whole.map { $0["place"]?.string } == ["data", "hole"], "\(whole)")
        unlink(parent)
        let result = try Product.run("map", "--json", child)
        #expect(result.status == 0, "\(result)")
        #expect(result.errors.contains("missing") && result.errors.split(separator: "\n").count == 1, "\(result)")
        let runs = try #require(try JSON(parsing: result.output).array)
        #expect(runs.map { $0["place"]?.string } == ["data", "missing"], "\(runs)")
        #expect(runs.last?["zero"] == .bool(false) && runs.last?["present"] == .bool(false), "\(runs)")
        #expect(runs.last?["length"]?.uint64 == 6 << 20)
        #expect(try Product.run("map", child).text.contains("missing"))
    }

    private func tableOffset(_ path: String) throws -> UInt64 {
        try HostFiles.read(path)[512 + 16..<512 + 24].reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func bigEndian(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) }
    }

    @Test(arguments: ["qcow2", "vhdx", "vhd"])
    func aCheckOfTheImageAloneSaysWhatItLeftOut(_ ending: String) throws {
        let (parent, child, _) = try child(ending)
        #expect(!(try Product.run("check", child).text.contains("what lies below")))
        unlink(parent)
        let result = try Product.run("check", child)
        #expect(result.status == 0, "\(result)")
        #expect(result.text.contains("what lies below cannot be opened") && result.text.contains("clean"), "\(result)")
        let json = try JSON(parsing: Product.run("check", "--json", child).output)
        #expect(json["parentError"]?.string?.contains("parent.\(ending)") == true && json["inUse"] == .bool(false))
        // Who asks for the chain does not get all of it.
        let chain = try Product.run("check", "--chain", child)
        #expect(chain.status == 1 && chain.text.contains("clean"), "\(chain)")
    }

    @Test(
        .enabled(if: geteuid() == 0 && Tool.has("setpriv"), "needs root and setpriv"),
        arguments: ["qcow2", "vhdx", "vhd"])
    func aParentThatMayNotBeReadIsSaidToBeOne(_ ending: String) throws {
        let (parent, child, _) = try child(ending)
        let program = directory.file("platter")
        try runSuccessfully("cp", Product.path, program)
        #expect(chmod(directory.path, 0o755) == 0 && chmod(parent, 0) == 0 && chmod(child, 0o644) == 0)
        let words = "\(parent): cannot open the file: permission denied; check who may read it"
        for arguments in [["info"], ["info", "--json"], ["map"], ["check"], ["check", "--json"], ["mount"]] {
            let result = try ChildProcess(
                "setpriv",
                ["--reuid", "65534", "--regid", "65534", "--clear-groups", program] + arguments
                    + (arguments == ["mount"] ? [child, try mountpoint()] : [child])
            ).wait()
            #expect("\(result.text)\(result.errors)".contains(words), "\(result)")
        }
    }

    /// `create` has no options for the parents of its parent: it says what helps there.
    @Test func aChildOfAnOrphanIsNotMadeAndTheAdviceWorks() throws {
        for ending in ["qcow2", "vhdx", "vhd"] {
            let (parent, child, identity) = try child(ending)
            let new = directory.file("new.\(ending)")
            mkdir(directory.file("other"), 0o755)
            let moved = directory.file("other/parent.\(ending)")
            #expect(rename(parent, moved) == 0)
            let missing = try Product.run("create", "-q", "-b", child, new)
            #expect(missing.status == 2 && missing.errors.contains("is missing"), "\(missing)")
            #expect(!missing.errors.contains("-o parent=") && missing.errors.contains("--allow-parents DIR"))
            if ending == "qcow2", Tool.has("qemu-img") {
                #expect(missing.errors.contains("'qemu-img rebase -u -b FILE -F FORMAT IMAGE'"), "\(missing)")
                try runSuccessfully("qemu-img", "rebase", "-u", "-b", moved, "-F", "qcow2", child)
                let outside = try Product.run("create", "-q", "-b", child, "--allow-parents", directory.path, new)
                #expect(outside.succeeded, "\(outside)")
            }
            guard identity != nil else { continue }
            #expect(try Product.run("create", "-q", parent, "8M").succeeded)
            let unrelated = try Product.run("create", "-q", "-b", child, new)
            #expect(unrelated.status == 2 && unrelated.errors.contains("put the right one in its place"))
            #expect(!unrelated.errors.contains("-o "), "\(unrelated)")
            #expect(rename(moved, parent) == 0)
            #expect(try Product.run("create", "-q", "-b", child, new).succeeded)
        }
        let remote = try overlay(of: "nbd://host/disk", format: "raw")
        let refused = try Product.run("create", "-q", "-b", remote, directory.file("over.qcow2"))
        #expect(refused.errors.contains("qemu-img rebase -u") && !refused.errors.contains("-o parent="), "\(refused)")
    }

    @Test func theChainEndsAtWhatIsMissing() throws {
        let (parent, child, _) = try child("qcow2")
        let top = directory.file("top.qcow2")
        #expect(try Product.run("create", "-q", "--parent", child, top).succeeded)
        unlink(parent)
        let chain = try JSON(parsing: Product.run("info", "--chain", "--json", top).output)
        #expect(chain.array?.count == 2)
        #expect(chain[0]?["parent"]?["error"] == .null && chain[0]?["parent"]?["path"]?.string == child)
        #expect(chain[1]?["parent"]?["error"]?.string?.contains("parent.qcow2") == true)
        let mount = try Product.run("mount", top, try mountpoint())
        #expect(mount.status == 32 && mount.errors.contains("is missing"), "a mount needs all of it: \(mount)")
    }

    /// A qcow2 of version 3 with no table but an empty L1, whose backing file has this name and format.
    private func overlay(of name: String, format: String) throws -> String {
        var bytes = [UInt8](repeating: 0, count: 3 * 65536)
        func put(_ value: UInt64, _ count: Int, at offset: Int) {
            for index in 0..<count {
                bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (count - 1 - index)))
            }
        }
        bytes.replaceSubrange(0..<4, with: [0x51, 0x46, 0x49, 0xFB])
        put(3, 4, at: 4)
        put(1024, 8, at: 8)
        put(UInt64(name.utf8.count), 4, at: 16)
        put(16, 4, at: 20)
        put(1 << 20, 8, at: 24)
        put(1, 4, at: 36)
        put(65536, 8, at: 40)
        put(131_072, 8, at: 48)
        put(1, 4, at: 56)
        put(4, 4, at: 96)
        put(104, 4, at: 100)
        put(0xE279_2ACA, 4, at: 104)
        put(UInt64(format.utf8.count), 4, at: 108)
        bytes.replaceSubrange(112..<(112 + format.utf8.count), with: Array(format.utf8))
        bytes.replaceSubrange(1024..<(1024 + name.utf8.count), with: Array(name.utf8))
        return try directory.write(bytes, to: "overlay.qcow2")
    }

    @Test(arguments: [
        ("nbd://host:10809/disk", "raw", "not a local file"), ("json:{\"driver\":\"nbd\"}", "raw", "not a local file"),
        ("base.vmdk", "vmdk", "vmdk"),
    ])
    func aParentThatIsNeverFollowedIsShown(_ name: String, _ format: String, _ reason: String) throws {
        try directory.write([1, 2, 3], to: "base.vmdk")
        let path = try overlay(of: name, format: format)
        let info = try JSON(parsing: Product.run("info", "--json", path).output)
        #expect(info["parent"]?["recorded"]?[0]?.string == name)
        #expect(info["parent"]?["format"]?.string == format)
        #expect(info["parent"]?["error"]?.string?.contains(reason) == true, "\(info)")
        #expect(try Product.run("map", path).status == 0)
        let mount = try Product.run("mount", path, try mountpoint())
        #expect(mount.status == 32 && mount.errors.contains(reason), "\(mount)")
    }
}
