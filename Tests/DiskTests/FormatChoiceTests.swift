internal import Bytes
internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// Whose word about the format of a file counts: rules for names, the user's, the child's, and never a guess against the
/// content.
@Suite(.enabled(if: Tool.has("qemu-img"), "qemu-img is missing"))
struct FormatChoiceTests {
    private let scratch: TemporaryDirectory
    private let content: [UInt8]

    init() throws {
        scratch = try TemporaryDirectory("choice")
        content = [UInt8](repeating: 0x41, count: 1 << 20)
    }

    /// The content as an image of `format`.
    private func image(_ name: String, _ format: String = "qcow2") throws -> String {
        let raw = try scratch.write(content, to: "source")
        try runSuccessfully("qemu-img", "convert", "-q", "-f", "raw", "-O", format, raw, scratch.file(name))
        return scratch.file(name)
    }

    /// A child that does not record what `base` is.
    private func child(_ name: String, of base: String) throws -> String {
        let path = scratch.file(name)
        try runSuccessfully("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, path, "1M")
        var bytes = try HostFiles.read(path)
        bytes[try #require(bytes.firstRange(of: [0xE2, 0x79, 0x2A, 0xCA])).lowerBound] = 0x12
        try HostFiles.write(bytes, to: path)
        return path
    }

    private func rules(_ rules: (format: String, pattern: String)...) throws -> [FormatRule] {
        try rules.map { FormatRule(format: $0.format, pattern: try #require(NamePattern($0.pattern))) }
    }

    private func open(_ path: String, _ change: (inout DiskOptions) throws -> Void = { _ in }) throws -> Disk {
        var options = DiskOptions.quiet
        try change(&options)
        return try Disk.open(path: path, options: options)
    }

    @Test(arguments: ["qcow2", "vhdx", "vpc"])
    func aCloudImageCalledImgIsRefusedUntilTheUserSays(_ format: String) throws {
        let path = try image("cloud.img", format)
        let named = ["vpc": "vhd"][format] ?? format
        for isWritable in [false, true] {
            let error = try failure { try open(path) { $0.isWritable = isWritable } }
            #expect(error.file == path && "\(error)".contains("-o format=\(named) or -o format=raw"), "\(error)")
        }
        let sized = try failure { try Disk.virtualSize(path: path, options: .quiet) }
        let checked = try failure { try Disk.check(path: path, options: .quiet, repairs: true) }
        #expect("\(sized)" == "\(checked)" && "\(sized)".contains("-o format=raw"))
        let disk = try open(path) { $0.format = named }
        #expect(try disk.content(ByteRange(0, to: 4096)).allSatisfy { $0 == 0x41 })
        #expect(try open(path) { $0.format = "raw" }.content() == HostFiles.read(path))
    }

    // MARK: - Rules

    @Test func theFirstRuleThatFitsCounts() throws {
        let path = try image("cloud.img")
        let all = try rules(("raw", "*.raw"), ("qcow2", "cl?ud.[ij]mg"), ("raw", "*"))
        #expect(try open(path) { $0.formatRules = all }.layers[0].shape.formatName == "qcow2")
        // A rule is more exact than the word about all images.
        #expect(try open(path) { ($0.formatRules, $0.format) = (all, "raw") }.content() == content)
        let others = try rules(("vhd", "other*"))
        #expect(throws: ImageError.self) { try open(path) { $0.formatRules = others } }
        #expect(try open(path) { ($0.formatRules, $0.format) = (others, "raw") }.layers[0].shape.formatName == "raw")
        #expect(try Disk.check(path: path, options: .quiet.with(all), repairs: false).format == "qcow2")
    }

    @Test func aNameThatIsNotThePathIsTheOneThatCounts() throws {
        let path = try image("cloud.img")
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        let other = "/proc/self/fd/\(descriptor)"
        let name = [0xFF] + Array(".img".utf8)
        let error = try failure { try open(other) { $0.imageName = name } }
        #expect("\(error)".contains("the name says raw"), "\(error)")
        let disk = try open(other) {
            $0.imageName = name
            $0.formatRules = try rules(("raw", "\(descriptor)"), ("qcow2", "?.img"))
        }
        #expect(try disk.content() == content)
    }

    // MARK: - Parents

    /// QEMU would read such a parent as qcow2: taking it for raw shows wrong data.
    @Test(arguments: ["qcow2", "vhdx", "vpc"])
    func aParentThatLooksLikeAnImageIsNotGuessedRaw(_ format: String) throws {
        let named = ["vpc": "vhd"][format] ?? format
        let base = try image("cloud.img", format)
        let top = try child("top.qcow2", of: "cloud.img")
        let error = try failure { try open(top) }
        #expect(error.file == base)
        #expect("\(error)".contains("-o backing-format=\(named) or -o backing-format=raw"), "\(error)")
        let disk = try open(top) { $0.backingFormat = named }
        #expect(try disk.content(ByteRange(0, to: 4096)).allSatisfy { $0 == 0x41 })
        let raw = try open(top) { $0.backingFormat = "raw" }
        #expect(try raw.content(ByteRange(0, to: 4096)) == Array(HostFiles.read(base)[..<4096]))
        let ruled = try open(top) { $0.formatRules = try rules((named, "*.img")) }
        #expect(ruled.layers.map(\.shape.formatName) == ["qcow2", named])
    }

    @Test func whatTheChildRecordsIsNotOverruled() throws {
        _ = try image("cloud.img")
        let top = scratch.file("top.qcow2")
        try runSuccessfully(
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "cloud.img", top, "1M")
        let disk = try open(top) {
            $0.formatRules = try rules(("raw", "*.img"))
            $0.backingFormat = "raw"
        }
        #expect(try disk.content() == content)
    }

    @Test func aDamagedParentIsDescribedInItsOwnWords() throws {
        _ = try child("top.qcow2", of: "base.vhdx")
        let base = try scratch.write([UInt8](repeating: 0, count: 1 << 20), to: "base.vhdx")
        let error = try failure { try open(scratch.file("top.qcow2")) }
        #expect(error.file == base && "\(error)".contains("the beginning of the file is zeros"), "\(error)")
        try scratch.write([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0, 1, 2], to: "base.vhdx")
        #expect(try "\(failure { try open(scratch.file("top.qcow2")) })".contains("compressed with xz"))
    }

    /// A guest may have made its raw disk look so.
    @Test func aGuessedParentStillNamesNothing() throws {
        _ = try image("base.qcow2")
        let middle = try child("middle", of: "base.qcow2")
        let top = try child("top.qcow2", of: "middle")
        let error = try failure { try open(top) }
        #expect(error.kind == .denied && error.file == middle && "\(error)".contains("backing-format"), "\(error)")
        #expect(try open(top) { $0.formatRules = try rules(("qcow2", "middle")) }.content() == content)
    }

    // MARK: - Packed files that are called raw

    @Test func aPackedFileThatIsServedAsARawDiskIsSaid() throws {
        let path = try scratch.write([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0] + content, to: "disk.img")
        let lines = LogLines()
        _ = try Disk.open(path: path, options: .logging(into: lines))
        #expect(lines.all.count == 1 && lines.all[0].contains(path) && lines.all[0].contains("xz"), "\(lines.all)")
        var options = DiskOptions.logging(into: lines)
        options.format = "raw"
        _ = try Disk.open(path: path, options: options)
        options.format = nil
        options.formatRules = try rules(("raw", "*"))
        _ = try Disk.open(path: path, options: options)
        #expect(lines.all.count == 1)
    }
}

extension DiskOptions {
    fileprivate func with(_ rules: [FormatRule]) -> DiskOptions {
        var options = self
        options.formatRules = rules
        return options
    }
}
