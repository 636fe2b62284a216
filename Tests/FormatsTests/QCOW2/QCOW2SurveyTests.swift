import Bytes
import Disk
import Storage
import Synchronization
import TestSupport
import Testing

@testable import Formats

/// What an image says about its own space is not believed before all of its tables were looked at once.
struct QCOW2SurveyTests {
    private static let unit = 65_536

    /// An image of 4 MiB whose first eight clusters hold their own numbers, 1 to 8.
    private static func numbered(_ directory: TemporaryDirectory) throws -> String {
        let path = directory.file("image.qcow2")
        _ = try NewImage(path: path, format: QCOW2.self, size: 4 << 20).make()
        let disk = try Disk.open(path: path, options: .silent(isWritable: true))
        for number in 1...8 {
            try write(disk, [UInt8](repeating: UInt8(number), count: unit), at: UInt64((number - 1) * unit))
        }
        try disk.finish()
        return path
    }

    private static func write(_ disk: Disk, _ bytes: [UInt8], at offset: UInt64) throws {
        try bytes.withUnsafeBytes { try disk.write(ByteRange(offset, to: offset + UInt64(bytes.count)), from: $0) }
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
        bytes[offset..<(offset + 8)].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Where the refcount of the cluster lies that holds the guest's cluster `index`, and where its L2 entry does.
    private static func places(_ bytes: [UInt8], guest index: Int) -> (refcount: Int, entry: Int) {
        let table = Int(word(bytes, Int(word(bytes, 40))) & 0x00FF_FFFF_FFFF_FE00)
        let entry = table + 8 * index
        let cluster = (word(bytes, entry) & 0x00FF_FFFF_FFFF_FE00) >> 16
        return (Int(word(bytes, Int(word(bytes, 48)))) + 2 * Int(cluster), entry)
    }

    @Test func aUsedClusterWithoutRefcountIsNotGivenOut() throws {
        let directory = try TemporaryDirectory("survey")
        let path = try Self.numbered(directory)
        var bytes = try HostFiles.read(path)
        bytes.put(UInt16(0), at: Self.places(bytes, guest: 5).refcount)
        try HostFiles.write(bytes, to: path)
        let failure = imageError { _ = try Disk.open(path: path, options: .silent(isWritable: true)) }
        #expect(failure?.kind == .corrupt)
        #expect(failure.map { "\($0)".contains("platter check --repair mends them") } == true)
        #expect(try HostFiles.read(path) == bytes)
        // Reading goes on, and the way out that the message names is one.
        let disk = try Disk.open(path: path, options: .silent(isWritable: false))
        #expect(try disk.contents(ByteRange(5 << 16, to: 6 << 16)).allSatisfy { $0 == 6 })
        _ = try Disk.check(path: path, options: .silent(isWritable: false), repairs: true)
        _ = try Disk.open(path: path, options: .silent(isWritable: true))
    }

    @Test func aSharedClusterWithRefcountOneIsNotFreed() throws {
        let directory = try TemporaryDirectory("survey")
        let path = try Self.numbered(directory)
        var bytes = try HostFiles.read(path)
        // Two guest clusters in one: discarding either would free what the other still shows.
        let (first, second) = (Self.places(bytes, guest: 0).entry, Self.places(bytes, guest: 1).entry)
        bytes.put(Self.word(bytes, first), at: second)
        try HostFiles.write(bytes, to: path)
        #expect(imageError { _ = try Disk.open(path: path, options: .silent(isWritable: true)) }?.kind == .corrupt)
    }

    @Test func aFileThatWasCutShortIsNotMadeLonger() throws {
        let directory = try TemporaryDirectory("survey")
        let path = try Self.numbered(directory)
        let bytes = try HostFiles.read(path)
        try HostFiles.truncate(path, to: UInt64(bytes.count - 3 * Self.unit))
        let failure = imageError { _ = try Disk.open(path: path, options: .silent(isWritable: true)) }
        #expect(failure?.kind == .corrupt)
        #expect(failure.map { "\($0)".contains("cut short") } == true)
        let disk = try Disk.open(path: path, options: .silent(isWritable: false))
        #expect(try disk.contents(ByteRange(0, to: 65_536)).allSatisfy { $0 == 1 })
        #expect(imageError { _ = try disk.contents(ByteRange(7 << 16, to: 8 << 16)) } != nil)
    }

    /// A large image is looked at before the first change of a table: then the change fails, and nothing else does.
    @Test func aLargeImageIsSurveyedBeforeItsTablesChange() throws {
        let directory = try TemporaryDirectory("survey")
        let path = try Self.numbered(directory)
        let bytes = try HostFiles.read(path)
        let storage = MemoryStorage(bytes)
        let session = try QCOW2Session(storage)
        let writer = try #require((session.driver as? QCOW2.Driver)?.writer)
        // As if it had been too large for a survey at open.
        writer.state.withLock { $0.survey = nil }
        try storage.write(at: HostOffset(UInt64(Self.places(bytes, guest: 5).refcount)), [0, 0])
        try session.write([UInt8](repeating: 9, count: 4096), at: 0)
        #expect(imageError { try session.write([UInt8](repeating: 9, count: 4096), at: 2 << 20) }?.kind == .corrupt)
        #expect(imageError { try session.zero(ByteRange(0, to: 65_536)) }?.kind == .corrupt)
        #expect(try session.read(5 << 16, 4096).allSatisfy { $0 == 6 })
    }

    /// What nobody could count is neither given out nor given up.
    @Test func withoutASurveyOnlyTheEndOfTheFileIsUsed() throws {
        let directory = try TemporaryDirectory("survey")
        let path = try Self.numbered(directory)
        let end = UInt64(try HostFiles.read(path).count)
        let session = try QCOW2Session(FileStorage(path: path, isWritable: true))
        let writer = try #require((session.driver as? QCOW2.Driver)?.writer)
        writer.state.withLock { state in
            (state.reusesSpace, state.cursor) = (false, state.fresh)
        }
        try session.zero(ByteRange(0, to: 4 << 16))
        try session.commit()
        try session.write([UInt8](repeating: 9, count: 65_536), at: 1 << 20)
        var runs = ExtentList(for: ByteRange(1 << 20, to: 1 << 20 + 65_536))
        try session.driver.map(.placement, into: &runs)
        guard case .data(_, let offset) = runs[0].place else {
            Issue.record("the cluster is not mapped")
            return
        }
        #expect(offset.rawValue >= end & ~65_535)
        try session.finish()
        #expect(try Disk.check(path: path, options: .silent(isWritable: false), repairs: false).report.corruptions == 0)
    }
}
