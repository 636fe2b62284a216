internal import Bytes
@testable internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// Parents that the user names (`-o parent=`, `-o force-parent`), and long chains.
struct NamedParentTests {
    private let scratch: TemporaryDirectory
    private let lines = LogLines()

    init() throws {
        scratch = try TemporaryDirectory("named")
        for directory in ["home", "other"] { try #require(mkdir(scratch.file(directory), 0o755) == 0) }
    }

    private static let size: UInt64 = 4 << 20

    /// Makes an image, with `mark` in its first byte where that is not 0.
    @discardableResult
    private func make(
        _ name: String, over parent: String? = nil, mark: UInt8 = 0, size: UInt64? = size
    ) throws -> String {
        let path = scratch.file(name)
        let format = try #require(Registry.format(forNewFile: name))
        let below = parent.map { NewImage.Parent(path: scratch.file($0), options: .quiet) }
        _ = try NewImage(path: path, format: format, size: size, parent: below, replaces: true).make()
        if mark != 0 {
            var options = DiskOptions.quiet
            options.isWritable = true
            let disk = try Disk.open(path: path, options: options)
            try disk.write([mark], at: 0)
            try disk.finish()
        }
        return path
    }

    private func move(_ name: String, to other: String) throws {
        try #require(rename(scratch.file(name), scratch.file(other)) == 0)
    }

    private func open(
        _ path: String, _ parents: [String?] = [], _ change: (inout DiskOptions) -> Void = { _ in }
    ) throws -> Disk {
        var options = DiskOptions.logging(into: lines)
        options.parents = parents.map { $0.map(scratch.file) }
        change(&options)
        return try Disk.open(path: path, options: options)
    }

    private func first(_ disk: Disk) throws -> UInt8 { try disk.content(ByteRange(0, to: 1))[0] }

    // MARK: - parent=

    /// What a child records of its parent is about that one: neither its end of the chain nor its format binds a file that
    /// the user names instead.
    @Test func whatIsRecordedDoesNotBindAnotherFile() throws {
        try make("home/base.qcow2", mark: 7)
        let middle = try make("home/middle.qcow2", over: "home/base.qcow2")
        for format in ["qcow2", "raw"] {
            let name =
                "json:{\"driver\":\"\(format)\",\"backing\":null,\"file\":{\"driver\":\"file\",\"filename\":\"gone\"}}"
            let request = NewImage.Parent(path: middle, options: .quiet, recorded: name)
            let top = scratch.file("home/top-\(format).qcow2")
            _ = try NewImage(path: top, format: QCOW2.self, size: Self.size, parent: request, replaces: true).make()
            // The format in the header counts before that in the name.
            if format == "raw" { try HostFiles.patch(Array("raw  ".utf8), at: Int64(try formatPlace(top)), of: top) }
            if format == "qcow2" {
                #expect(try first(open(top, ["home/middle.qcow2"])) == 7)
                continue
            }
            let refusal = try failure { try open(top, ["home/middle.qcow2"]) }
            #expect("\(refusal)".contains("-o backing-format=qcow2 or -o backing-format=raw"), "\(refusal)")
            #expect(try first(open(top, ["home/middle.qcow2"]) { $0.backingFormat = "qcow2" }) == 7)
            #expect(try first(open(top, ["home/middle.qcow2"]) { $0.backingFormat = "raw" }) == UInt8(ascii: "Q"))
        }
    }

    /// Where the five letters of the backing format stand in the header of an image; its length becomes three.
    private func formatPlace(_ path: String) throws -> Int {
        var bytes = try HostFiles.read(path)
        let mark: [UInt8] = [0xE2, 0x79, 0x2A, 0xCA]
        let place = try #require((0..<4000).first { Array(bytes[$0..<($0 + 4)]) == mark })
        bytes[place + 7] = 3
        try HostFiles.write(bytes, to: path)
        return place + 8
    }

    @Test(arguments: ["vhd", "vhdx", "qcow2"]) func theUserNamesWhatTheImageCannot(_ kind: String) throws {
        try make("home/base.\(kind)", mark: 7)
        try make("home/middle.\(kind)", over: "home/base.\(kind)")
        let top = try make("home/top.\(kind)", over: "home/middle.\(kind)")
        try move("home/base.\(kind)", to: "other/renamed.\(kind)")
        #expect(try failure { try open(top) }.kind == .missing)
        #expect(try first(open(top, [nil, "other/renamed.\(kind)"])) == 7)
        try move("home/middle.\(kind)", to: "other/m.\(kind)")
        let parents = ["other/m.\(kind)", "other/renamed.\(kind)"]
        #expect(try first(open(top, parents)) == 7)
        #expect(try failure { try open(top, [parents[0]]) }.kind == .missing)
        // What fits may be written over.
        do {
            let disk = try open(top, parents) { $0.isWritable = true }
            try disk.write([9], at: 0)
            try disk.finish()
        }
        #expect(try first(open(top, parents)) == 9)
        #expect(lines.all.isEmpty)
    }

    @Test func oneParentTooManyIsNamed() throws {
        try make("home/base.vhdx")
        let top = try make("home/top.vhdx", over: "home/base.vhdx")
        let error = try failure { try open(top, ["home/base.vhdx", "other/more.vhdx"]) }
        #expect("\(error)".contains("more parents") && "\(error)".contains(scratch.file("other/more.vhdx")), "\(error)")
        let alone = try failure { try open(scratch.file("home/base.vhdx"), ["home/top.vhdx"]) }
        #expect("\(alone)".contains("more parents"), "\(alone)")
        #expect(try open(top, ["home/base.vhdx", nil]).layers.count == 2)
    }

    @Test func aParentThatIsNotThereIsNamed() throws {
        try make("home/base.vhdx")
        let top = try make("home/top.vhdx", over: "home/base.vhdx")
        let error = try failure { try open(top, ["other/none.vhdx"]) }
        #expect(error.kind == .missing && error.file == scratch.file("other/none.vhdx"))
        let own = try failure { try open(top, ["home/top.vhdx"]) }
        #expect(own.kind == .corrupt && own.file == top, "\(own)")
    }

    /// The directory of a parent that the user named counts as the image's own does.
    @Test func whatLiesBesideItIsFound() throws {
        try make("other/base.qcow2", mark: 7)
        try make("other/middle.qcow2", over: "other/base.qcow2")
        let top = try make("home/top.qcow2", over: "other/middle.qcow2")
        #expect(try failure { try open(top) }.kind == .denied)
        #expect(try first(open(top, ["other/middle.qcow2"])) == 7)
    }

    // MARK: - What does not fit

    @Test(arguments: ["vhd", "vhdx"]) func anotherIdentityNeedsTheUsersInsistence(_ kind: String) throws {
        try make("home/base.\(kind)", mark: 7)
        let top = try make("home/top.\(kind)", over: "home/base.\(kind)")
        try make("other/stranger.\(kind)", mark: 8)
        let refused = try failure { try open(top, ["other/stranger.\(kind)"]) }
        #expect(refused.kind == .corrupt && "\(refused)".contains("-o force-parent"), "\(refused)")
        #expect(lines.all.isEmpty)
        #expect(try first(open(top, ["other/stranger.\(kind)"]) { $0.forcesParent = true }) == 8)
        let line = try #require(lines.all.first)
        #expect(lines.all.count == 1 && line.hasPrefix("warning") && line.contains("force-parent"), "\(line)")
        #expect(line.contains(scratch.file("other/stranger.\(kind)")) && line.contains(top), "\(line)")
        #expect(line.count { $0 == "{" } == 2, "\(line)")
        for overlay in [false, true] {
            let error = try failure {
                try open(top, ["other/stranger.\(kind)"]) {
                    $0.forcesParent = true
                    if overlay {
                        $0.overlay = scratch.file("home/over.qcow2")
                        try? HostFiles.write(Self.overlayBytes(scratch, top), to: scratch.file("home/over.qcow2"))
                    } else {
                        $0.isWritable = true
                    }
                }
            }
            #expect(error.kind == .denied && "\(error)".contains("only read"), "\(error)")
        }
    }

    private static func overlayBytes(_ scratch: TemporaryDirectory, _ top: String) throws -> [UInt8] {
        let path = scratch.file("over.qcow2")
        let format = try #require(Registry.format(named: "qcow2"))
        let file = try NewFile(path: path, replaces: true)
        let shape = DiskShape(virtualSize: size, allocationUnit: 65536, formatName: "raw", subformat: "raw")
        try format.create(
            CreateRequest(
                storage: file.storage, virtualSize: size,
                parent: CreateRequest.Parent(absolutePath: top, recordedPath: top, shape: shape, modified: 0)))
        try file.keep()
        return try HostFiles.read(path)
    }

    /// Somebody wrote into the parent, which lies where it is recorded: no other name is needed to insist.
    @Test func theRecordedFileCanBeForced() throws {
        try make("home/base.vhdx", mark: 7)
        let top = try make("home/top.vhdx", over: "home/base.vhdx")
        try make("home/base.vhdx", mark: 8)
        #expect(try failure { try open(top) }.kind == .corrupt)
        #expect(try first(open(top) { $0.forcesParent = true }) == 8)
        #expect(lines.all.count == 1)
    }

    /// Sectors of another size make the child's bitmaps mean something else.
    @Test func sectorsOfAnotherSizeCannotBeForced() throws {
        try make("home/base.vhdx")
        let top = try make("home/top.vhdx", over: "home/base.vhdx")
        let path = scratch.file("home/base.vhdx")
        let format = try #require(Registry.format(named: "vhdx"))
        _ = try NewImage(
            path: path, format: format, size: Self.size, options: ["logical_sector_size": "4096"], replaces: true
        ).make()
        let error = try failure { try open(top) { $0.forcesParent = true } }
        #expect(error.kind == .corrupt && "\(error)".contains("4096 and 512"), "\(error)")
    }

    /// Nothing but the size tells whether a file is the parent of a qcow2 image.
    @Test func aParentOfAnotherSizeIsOnlyRead() throws {
        try make("home/base.qcow2")
        let top = try make("home/top.qcow2", over: "home/base.qcow2")
        try make("other/small.qcow2", mark: 5, size: Self.size / 2)
        #expect(try first(open(top, ["other/small.qcow2"])) == 5)
        let line = try #require(lines.all.first)
        #expect(
            line.hasPrefix("warning") && line.contains("\(Self.size / 2)") && line.contains("\(Self.size)"), "\(line)")
        let error = try failure { try open(top, ["other/small.qcow2"]) { $0.isWritable = true } }
        #expect(error.kind == .denied && "\(error)".contains("only read"), "\(error)")
        // One that the image records itself may have any size.
        try make("home/base.qcow2", mark: 6, size: Self.size / 2)
        try open(top) { $0.isWritable = true }.finish()
    }

    // MARK: - Long chains

    /// Images of one format, each on the one before: 0 is the base, whose first byte is 7.
    private func chain(of count: Int, _ kind: String) throws -> String {
        let format = try #require(Registry.format(named: kind))
        try make("home/0.\(kind)", mark: 7)
        var shape = try open(scratch.file("home/0.\(kind)")).layers[0].shape
        for index in 1..<count {
            let path = scratch.file("home/\(index).\(kind)")
            let below = try FileStorage(path: scratch.file("home/\(index - 1).\(kind)"))
            let file = try NewFile(path: path)
            let parent = CreateRequest.Parent(
                absolutePath: below.name, recordedPath: "\(index - 1).\(kind)", shape: shape, modified: 0,
                storage: below)
            try format.create(CreateRequest(storage: file.storage, virtualSize: Self.size, parent: parent))
            try file.keep()
            let companions = Companions(
                gate: try OpenGate(image: path, allowed: []), image: file.storage, trusted: true)
            shape = try format.open(OpenRequest(storage: file.storage, companions: companions)).shape
        }
        return scratch.file("home/\(count - 1).\(kind)")
    }

    /// How many descriptors of this process are of files of this test: others open files meanwhile.
    private func descriptors() throws -> Int {
        try HostFiles.list("/proc/self/fd").filter { number in
            var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
            let count = readlink("/proc/self/fd/\(number)", &buffer, buffer.count - 1)
            let path = buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }
            return path.starts(with: scratch.path.utf8)
        }.count
    }

    @Test(arguments: ["vhd", "vhdx", "qcow2"]) func twoHundredAndFiftyImagesLieOnTopOfEachOther(_ kind: String) throws {
        let top = try chain(of: 250, kind)
        let before = try descriptors()
        let start = ContinuousClock.now
        let disk = try open(top)
        #expect(disk.layers.count == 250)
        // One for each image, and those of the directories.
        #expect(try descriptors() - before <= 250 + 8)
        let content = try disk.content()
        #expect(content[0] == 7 && content.dropFirst().allSatisfy { $0 == 0 })
        #expect(ContinuousClock.now - start < .seconds(60))
        let error = try failure { try open(top) { $0.maxLayers = 249 } }
        #expect(error.kind == .unsupported && "\(error)".contains("-o max-layers=N") && "\(error)".contains("249"))
        #expect(try open(top) { $0.maxLayers = 250 }.layers.count == 250)
    }

    @Test func theLimitIs256UnlessTheUserSaysMore() throws {
        let top = try chain(of: 300, "qcow2")
        #expect(DiskOptions.usualLayers == 256)
        #expect("\(try failure { try open(top) })".contains("256"))
        #expect(try first(open(top) { $0.maxLayers = 300 }) == 7)
        #expect(try open(scratch.file("home/255.qcow2")).layers.count == 256)
    }
}
