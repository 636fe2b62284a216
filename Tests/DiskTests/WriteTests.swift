internal import Bytes
internal import Disk
internal import Formats
internal import Storage
internal import TestSupport
internal import Testing

/// The writing side of a disk, on a raw file: every byte in place, nothing outside, and the life of a session.
@Suite struct WriteTests {
    private let scratch: TemporaryDirectory
    private let path: String

    init() throws {
        scratch = try TemporaryDirectory("write")
        path = try scratch.write([UInt8](repeating: 7, count: 1 << 20), to: "disk.raw")
    }

    private func writable() throws -> Disk {
        var options = DiskOptions.quiet
        options.isWritable = true
        return try Disk.open(path: path, options: options)
    }

    @Test func whatIsWrittenIsReadAndIsInTheFile() throws {
        let disk = try writable()
        #expect(disk.isWritable)
        try disk.write([1, 2, 3], at: 511)
        #expect(try disk.content(ByteRange(510, to: 515)) == [7, 1, 2, 3, 7])
        #expect(disk.hasUncommittedChanges)
        try disk.flush()
        #expect(!disk.hasUncommittedChanges)
        try disk.finish()
        #expect(try HostFiles.read(path)[510..<515] == [7, 1, 2, 3, 7])
    }

    @Test(arguments: [(0, 1 << 20), (1, 4095), (4096, 8192), (5000, 700_000), (77, 0)])
    func zeroedRangesReadAsZerosAndNothingElseDoes(_ start: Int, _ count: Int) throws {
        let disk = try writable()
        try disk.zero(ByteRange(UInt64(start), to: UInt64(start + count)))
        var expected = [UInt8](repeating: 7, count: 1 << 20)
        expected.replaceSubrange(start..<(start + count), with: [UInt8](repeating: 0, count: count))
        #expect(try firstDifference(disk.content(), expected) == nil)
        try disk.finish()
        #expect(try firstDifference(HostFiles.read(path), expected) == nil)
    }

    @Test func refusesWhatIsOutsideOrOver() throws {
        let disk = try writable()
        #expect(try failure { try disk.write([1], at: disk.size) }.kind == .noSpace)
        #expect(try failure { try disk.zero(ByteRange(0, to: disk.size + 1)) }.kind == .noSpace)
        try disk.write([1], at: 0)
        try disk.finish()
        try disk.finish()
        #expect(try failure { try disk.write([2], at: 0) }.kind == .readOnly)
        #expect(try disk.content(ByteRange(0, to: 1)) == [1])
        let reader = try Disk.open(path: path, options: .quietUnlocked)
        #expect(!reader.isWritable)
        #expect(try failure { try reader.write([1], at: 0) }.kind == .readOnly)
        try reader.flush()
    }

    @Test func partitionsShareTheWriterAndLayersHaveNone() throws {
        let disk = try writable()
        let part = try #require(disk.part(ByteRange(4096, to: 8192), name: "part"))
        try part.write([9], at: 1)
        #expect(try disk.content(ByteRange(4096, to: 4099)) == [7, 9, 7])
        #expect(disk.hasUncommittedChanges && part.hasUncommittedChanges)
        #expect(try failure { try part.write([9], at: 4096) }.kind == .noSpace)
        #expect(!disk.layerDisk(0).isWritable)
    }

    @Test func aWriterKeepsOthersOut() throws {
        let disk = try writable()
        #expect(try failure { try Disk.open(path: path, options: .quiet) }.kind == .busy)
        withExtendedLifetime(disk) {}
    }
}

extension Disk {
    /// Writes `bytes` at `offset`.
    func write(_ bytes: [UInt8], at offset: UInt64) throws {
        try bytes.withUnsafeBytes { try write(ByteRange(offset, to: offset + UInt64($0.count)), from: $0) }
    }
}

extension DiskOptions {
    /// Options that take no locks, for looking at an image that is open.
    static var quietUnlocked: DiskOptions {
        var options = DiskOptions.quiet
        options.lock = false
        return options
    }
}
