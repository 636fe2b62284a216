import Bytes
import Disk
import Formats
import Glibc
import Logging
import Storage
import TestSupport
import Testing

/// Children whose parents lie elsewhere than where they are recorded: found by their identity, or told.
@Suite struct MovedParentTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("moved") }

    // MARK: - Images of 4 KiB

    private static let parentID = [UInt8](repeating: 0xB6, count: 16)

    private func make(_ bytes: [UInt8], _ path: String) throws -> String {
        var folder = directory.path
        for part in path.split(separator: "/").dropLast() {
            folder += "/\(part)"
            mkdir(folder, 0o755)
        }
        return try directory.write(bytes, to: path)
    }

    /// A dynamic VHD whose first byte is `mark`.
    @discardableResult
    private func base(_ path: String, mark: UInt8 = 7, id: [UInt8] = parentID) throws -> String {
        var image = VHDBuilder(size: 4096)
        image.uniqueID = id
        image.addBlock(0, [UInt8](repeating: mark, count: 4096))
        return try make(image.bytes(), path)
    }

    /// A child without data that records its parent by one locator.
    private func child(
        _ path: String, _ text: String, code: String = "W2ku", name: String = "", id: [UInt8]? = nil
    ) throws -> String {
        var image = VHDBuilder(size: 4096)
        image.type = 4
        image.parentID = Self.parentID
        if let id { image.uniqueID = id }
        image.parentName = VHDBuilder.utf16BE(name)
        let bytes = code == "MacX" ? Array(text.utf8) : VHDBuilder.utf16LE(text)
        if code != "none" { image.locators = [VHDBuilder.Locator(code: code, text: bytes)] }
        return try make(image.bytes(), path)
    }

    private func overlay(_ path: String, of name: String, format: String = "vpc") throws -> String {
        try overlay(path, of: Array(name.utf8), format: format)
    }

    private func overlay(_ path: String, of name: [UInt8], format: String = "vpc") throws -> String {
        var image = QCOW2Builder(clusterBits: 9, size: 4096)
        image.backingName = name
        image.extensions = [(0xE279_2ACA, Array(format.utf8))]
        return try make(image.build(), path)
    }

    private func open(_ path: String, allow: [String] = []) throws -> Disk {
        var options = DiskOptions.silent(isWritable: false)
        options.allowedParents = allow.map { $0.hasPrefix("/") ? $0 : directory.file($0) }
        return try Disk.open(path: path, options: options)
    }

    private func first(_ disk: Disk) throws -> UInt8 {
        var byte: [UInt8] = [0xA5]
        try byte.withUnsafeMutableBytes { try disk.read(ByteRange(0, to: 1), into: $0) }
        return byte[0]
    }

    /// The first byte of the disk, and where its parent was found, from the test's directory.
    private func find(_ path: String, allow: [String] = []) throws -> (UInt8, String) {
        let disk = try open(path, allow: allow)
        #expect(disk.layers.count == 2)
        return (try first(disk), String(disk.layers[1].path.dropFirst(directory.path.utf8.count + 1)))
    }

    private func failure(_ path: String, allow: [String] = []) throws -> ImageError {
        try #require(throws: ImageError.self) { try open(path, allow: allow) }
    }

    // MARK: - As recorded

    @Test(arguments: ["W2ku", "W2ru"]) func relativePathsHaveDirectories(_ code: String) throws {
        try base("full/p.vhd")
        for (index, text) in ["../full/p.vhd", "..\\full\\p.vhd", ".\\..\\full\\p.vhd"].enumerated() {
            let path = try child("delta/\(index).vhd", text, code: code)
            for allow in ["full", ""] { #expect(try find(path, allow: [allow]) == (7, "full/p.vhd")) }
            let error = try failure(path)
            #expect(error.kind == .denied && "\(error)".contains("--allow-parents"), "\(error)")
            #expect("\(error)".contains("DIR = " + directory.file("full")), "\(error)")
            #expect("\(error)".contains("-o parent="), "\(error)")
        }
    }

    @Test func pathsOfThisMachineAreFollowed() throws {
        let parent = try base("full/p.vhd")
        #expect(try find(child("a.vhd", parent)) == (7, "full/p.vhd"))
        #expect(try find(child("b.vhd", "file://\(parent)", code: "MacX")) == (7, "full/p.vhd"))
        #expect(try find(overlay("c.qcow2", of: "file:\(parent)")) == (7, "full/p.vhd"))
        #expect(try find(overlay("d.qcow2", of: #"json:{"file":{"filename":"\#(parent)"}}"#)) == (7, "full/p.vhd"))
        try base("y/sub/P.vhd")
        let moved = try failure(overlay("y/e.qcow2", of: parent))
        #expect(moved.kind == .denied && "\(moved)".contains(directory.file("y/sub/P.vhd")), "\(moved)")
        let error = try failure(overlay("x/e.qcow2", of: #"json:{"driver":"vpc","file":{"filename":"\#(parent)"}}"#))
        #expect(error.kind == .denied && error.file == parent, "\(error)")
    }

    @Test func nullEndsTheChain() throws {
        try base("p.vhd")
        _ = try child("middle.vhd", ".\\p.vhd")
        let open = try overlay("a.qcow2", of: #"json:{"driver":"vpc","file":{"filename":"middle.vhd"}}"#)
        #expect(try first(self.open(open)) == 7)
        let ended = try overlay(
            "b.qcow2", of: #"json:{"driver":"vpc","backing":null,"file":{"filename":"middle.vhd"}}"#)
        let disk = try self.open(ended)
        #expect(try disk.layers.count == 2 && first(disk) == 0)
    }

    // MARK: - Windows

    @Test(arguments: [
        "D:\\vm\\base\\p.vhd", "D:/vm/base/p.vhd", "\\\\nas\\share\\vm\\base\\p.vhd", "\\\\?\\C:\\vm\\base\\p.vhd",
        "\\\\?\\Volume{8a9e21bd-0000-4000-8000-000000000001}\\vm\\base\\p.vhd", "\\vm\\base\\p.vhd",
    ])
    func theLongestEndThatExistsCounts(_ text: String) throws {
        let path = try child("home/c.vhd", text)
        let over = try overlay("home/c.qcow2", of: text)
        #expect(try failure(path).kind == .missing)
        #expect(try failure(over).kind == .missing)
        for (index, place) in ["root/p.vhd", "root/base/p.vhd", "root/vm/base/p.vhd"].enumerated() {
            try base(place, mark: UInt8(index + 1))
            #expect(try find(path, allow: ["root"]) == (UInt8(index + 1), place))
            #expect(try find(over, allow: ["root"]) == (UInt8(index + 1), place))
        }
        try base("home/vm/base/p.vhd", mark: 9)
        #expect(try find(path) == (9, "home/vm/base/p.vhd"))
        #expect(try find(over) == (9, "home/vm/base/p.vhd"))
    }

    @Test func aNameInTheHeaderHasDirectories() throws {
        try base("vm/sub/p.vhd")
        let path = try child("vm/c.vhd", "", code: "none", name: "sub\\p.vhd")
        #expect(try find(path) == (7, "vm/sub/p.vhd"))
        let moved = try failure(child("x/c.vhd", "", code: "none", name: "/abs/dir/p.vhd"))
        #expect("\(moved)".contains("/abs/dir"), "\(moved)")
    }

    // MARK: - No use

    /// Neither a path nor, with VHDX, an identity: the user's word alone leads to a parent.
    @Test func theUserNamesWhatIsNotRecorded() throws {
        let parent = try base("p.vhd")
        for (path, word) in [
            (try child("a.vhd", "", code: "none"), "does not say where its parent is"),
            (try overlay("b.qcow2", of: [0x70, 0xE9]), "not UTF-8"),
            (try overlay("c.qcow2", of: [0x70, 0, 0x71]), "zero byte"),
        ] {
            let error = try failure(path)
            #expect("\(error)".contains(word) && "\(error)".contains("-o parent=FILE"), "\(error)")
            #expect(error.file == path)
            var options = DiskOptions.silent(isWritable: false)
            options.parents = [parent]
            #expect(try first(Disk.open(path: path, options: options)) == 7)
        }
    }

    @Test func withoutAnIdentityTheUserMustInsist() throws {
        func write(_ builder: VHDXBuilder, _ path: String) throws -> String {
            let image = builder.build()
            return try make(image.bytes(at: HostOffset(0), count: Int(image.size)), path)
        }
        var below = VHDXBuilder(size: 4 << 20)
        below.add(0, [7])
        let parent = try write(below, "p.vhdx")
        var bare = VHDXBuilder(size: 4 << 20)
        bare.items[0].bytes[4] = 2
        let linkage = ("parent_linkage", "{\(VHDXBuilder.dataGUID)}")
        for (builder, word, fits) in [
            (bare, "does not say where", false), (VHDXBuilder(size: 4 << 20, locator: [linkage]), "does not say", true),
            (VHDXBuilder(size: 4 << 20, locator: [("relative_path", "p.vhdx")]), "by what to recognise", false),
        ] {
            let path = try write(builder, "c.vhdx")
            let error = try failure(path)
            #expect("\(error)".contains(word) && "\(error)".contains("-o parent=FILE"), "\(error)")
            var options = DiskOptions.silent(isWritable: false)
            options.parents = [parent]
            if !fits {
                let refused = try #require(throws: ImageError.self) { try Disk.open(path: path, options: options) }
                #expect("\(refused)".contains("-o force-parent"), "\(refused)")
                options.forcesParent = true
            }
            #expect(try first(Disk.open(path: path, options: options)) == 7)
            guard !fits else { continue }
            options.isWritable = true
            #expect(throws: ImageError.self) { try Disk.open(path: path, options: options) }
        }
    }

    @Test(arguments: [".\\", "..\\", "sub\\", "sub"]) func aDirectoryIsNoParent(_ text: String) throws {
        mkdir(directory.file("vm"), 0o755)
        mkdir(directory.file("vm/sub"), 0o755)
        let error = try failure(child("vm/c.vhd", text))
        #expect("\(error)".contains("is a directory") && "\(error)".contains("-o parent=FILE"), "\(error)")
        #expect(!"\(error)".contains("allow"), "\(error)")
    }

    @Test func aLinkToTheChildIsTheChild() throws {
        let own = [UInt8](repeating: 3, count: 16)
        let path = try child("vm/c.vhd", ".\\p.vhd", id: own)
        #expect(!"\(try failure(path))".contains("the image itself"))
        for make in [link, symlink] {
            unlink(directory.file("vm/p.vhd"))
            #expect(make(path, directory.file("vm/p.vhd")) == 0)
            let error = try failure(path)
            #expect(error.kind == .missing && "\(error)".contains("the recorded file is the image itself"), "\(error)")
        }
    }

    /// What has an identity is looked for by the end of any path; what has none is where it is recorded, or nowhere.
    @Test func aSetThatMovedIsFoundByItsIdentity() throws {
        try base("new/full/p.vhd")
        try base("new/p.vhd", mark: 9, id: [UInt8](repeating: 1, count: 16))
        #expect(try find(child("new/c.vhd", "/old/full/p.vhd")) == (7, "new/full/p.vhd"))
        #expect(try find(child("new/d.vhd", "..\\full\\p.vhd")) == (7, "new/full/p.vhd"))
        let error = try failure(overlay("new/c.qcow2", of: "full2/p.vhd"))
        #expect(error.kind == .missing, "\(error)")
        #expect("\(error)".contains("recorded as full2/p.vhd"), "\(error)")
        #expect("\(error)".contains("looked for " + directory.file("new/full2/p.vhd")), "\(error)")
        #expect("\(error)".contains("there is") && "\(error)".contains(directory.file("new/full/p.vhd")), "\(error)")
        #expect("\(error)".contains("-o parent=FILE") && "\(error)".contains("--allow-parents DIR"), "\(error)")
    }

    // MARK: - Names

    /// NFC and NFD, as Windows and macOS write the same name.
    @Test(arguments: [
        ("GUI.VHD", "gui.vhd"), ("Gr\u{F6}\u{DF}e.vhd", "gro\u{308}\u{DF}E.VHD"), ("Vm/B.vhd", "vM/b.VHD"),
    ])
    func caseAndNormalisationDoNotMatterToAnIdentity(_ recorded: String, _ real: String) throws {
        try base("set/" + real)
        try base("set/other.vhd", mark: 9, id: [UInt8](repeating: 1, count: 16))
        for text in [".\\" + recorded.replacing("/", with: "\\"), "V:\\VMs\\" + recorded.replacing("/", with: "\\")] {
            #expect(try find(child("set/c.vhd", text)) == (7, "set/" + real), "\(text)")
        }
        let error = try failure(overlay("set/c.qcow2", of: recorded))
        #expect(error.kind == .missing && "\(error)".contains("there is"), "\(error)")
        #expect(Array("\(error)".utf8).firstRange(of: Array(directory.file("set/" + real).utf8)) != nil, "\(error)")
    }

    /// Only one of many files that differ in case is the parent.
    @Test func theIdentityDecidesBetweenNames() throws {
        for (index, name) in ["p.vhd", "P.vhd", "p.VHD"].enumerated() {
            try base(name, mark: UInt8(index), id: [UInt8](repeating: UInt8(index + 1), count: 16))
        }
        try base("P.VHD")
        #expect(try find(child("c.vhd", "C:\\p.Vhd")) == (7, "P.VHD"))
        #expect(try find(child("d.vhd", "C:\\p.vhd")) == (7, "P.VHD"))
    }

    @Test func aLargeDirectoryIsSearchedOnce() throws {
        mkdir(directory.file("large"), 0o755)
        for index in 0..<20_000 {
            let file = Glibc.open(directory.file("large/file-\(index).vhd"), O_CREAT | O_WRONLY, 0o644)
            close(file)
        }
        try base("large/P.vhd")
        let start = ContinuousClock.now
        #expect(try find(child("large/c.vhd", "C:\\a\\b\\c\\d\\e\\p.vhd")) == (7, "large/P.vhd"))
        #expect(ContinuousClock.now - start < .seconds(20))
    }

    // MARK: - The child itself

    @Test func theChildIsNoCandidate() throws {
        let own = [UInt8](repeating: 3, count: 16)
        for (index, text) in ["D:\\masters\\disk.vhd", "../masters/disk.vhd", ".\\disk.vhd"].enumerated() {
            let path = try child("vm\(index)/disk.vhd", text, name: "disk.vhd", id: own)
            let error = try failure(path)
            #expect(!"\(error)".contains("own parent"), "\(error)")
            #expect(index == 1 ? error.kind == .denied || error.kind == .missing : error.kind == .missing, "\(error)")
            #expect("\(error)".contains("--allow-parents"), "\(error)")
            try base("masters/disk.vhd")
            #expect(try find(path, allow: ["masters"]) == (7, "masters/disk.vhd"))
            unlink(directory.file("masters/disk.vhd"))
        }
        let over = try overlay("vm9/p.vhd", of: "D:\\masters\\p.vhd")
        #expect(try failure(over).kind == .missing)
    }

    @Test func aRealLoopIsOne() throws {
        let path = try child("a.vhd", ".\\a.vhd", id: Self.parentID)
        let error = try failure(path)
        #expect(error.kind == .corrupt && "\(error)".contains("own parent"), "\(error)")
        #expect(try failure(overlay("b.qcow2", of: "b.qcow2", format: "qcow2")).kind == .corrupt)
    }

    // MARK: - Messages

    @Test func theMessageKeepsToTheEssentials() throws {
        let error = try failure(child("home/c.vhd", "D:\\a\\b\\c\\d\\e\\p.vhd"), allow: [])
        let told = "recorded as D:\\a\\b\\c\\d\\e\\p.vhd; looked for the ends of that, down to p.vhd, in "
        #expect(error.detail == told + directory.file("home"), "\(error)")
        let other = try failure(child("home/d.vhd", "..\\home\\x\\p.vhd"))
        #expect(
            other.detail == "recorded as ..\\home\\x\\p.vhd; looked for \(directory.file("home/x/p.vhd")), and for "
                + "the ends of that, down to p.vhd, in \(directory.file("home"))", "\(other)")
    }

    @Test func bothIdentitiesAreTold() throws {
        try base("p.vhd", id: [UInt8](repeating: 1, count: 16))
        let error = try failure(child("c.vhd", ".\\p.vhd"))
        #expect(error.kind == .corrupt && error.file == directory.file("p.vhd"))
        #expect("\(error)".contains("{b6b6b6b6-b6b6-b6b6-b6b6-b6b6b6b6b6b6}"), "\(error)")
        #expect("\(error)".contains("{01010101-0101-0101-0101-010101010101}"), "\(error)")
        #expect("\(error)".contains("-o force-parent") && "\(error)".contains("-o parent=FILE"), "\(error)")
        let builder = VHDXBuilder(size: 4 << 20).build()
        _ = try make(try builder.bytes(at: HostOffset(0), count: Int(builder.size)), "p.vhdx")
        let linkage = "{12345678-9abc-def0-1234-56789abcdef0}"
        let over = VHDXBuilder(
            size: 4 << 20, locator: [("parent_linkage", linkage), ("relative_path", ".\\p.vhdx")]
        ).build()
        let text = try "\(failure(make(over.bytes(at: HostOffset(0), count: Int(over.size)), "c.vhdx")))"
        #expect(text.contains(linkage) && text.contains("{\(VHDXBuilder.dataGUID)}"), "\(text)")
    }

    @Test(arguments: ["nbd:127.0.0.1:1", "json:{\"driver\":\"nbd\"}", "http://host/x", "file:"])
    func protocolsAreRefusedWithAWayOut(_ name: String) throws {
        let error = try failure(overlay("c.qcow2", of: name))
        #expect(error.kind == .denied && error.file == directory.file("c.qcow2"))
        for word in [name, "-o parent=FILE", "qemu-img rebase -u"] { #expect("\(error)".contains(word), "\(error)") }
        #expect(!"\(error)".contains("\n"))
    }

    @Test func aFormatThatCannotBeReadIsNamed() throws {
        try base("p.vmdk")
        let error = try failure(overlay("c.qcow2", of: "p.vmdk", format: "vmdk"))
        #expect(error.kind == .unsupported && error.detail == "vmdk" && error.file == directory.file("p.vmdk"))
    }

    /// Who puts an image into a directory that is served must not learn from its failure what else lies there.
    @Test func whatLiesBesideIsNotAlwaysTold() throws {
        try base("private/secret.vhd")
        var options = DiskOptions.silent(isWritable: false)
        let path = try overlay("c.qcow2", of: "x/secret.vhd")
        let told = try #require(throws: ImageError.self) { try Disk.open(path: path, options: options) }
        #expect("\(told)".contains("private"))
        options.tellsNames = false
        let silent = try #require(throws: ImageError.self) { try Disk.open(path: path, options: options) }
        #expect(!"\(silent)".contains("private") && silent.kind == .missing)
    }
}
