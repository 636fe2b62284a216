import Bytes
import CLinux
import Glibc
import Storage
import SystemPackage
import TestSupport
import Testing

@Suite struct FileStorageTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("storage") }

    private func read(_ storage: FileStorage, at offset: UInt64, count: Int) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0xEE, count: count)
        let got = try buffer.withUnsafeMutableBytes { try storage.read(at: HostOffset(offset), into: $0) }
        return Array(buffer[..<got])
    }

    @Test func readsAreShortOnlyAtTheEnd() throws {
        var random = SeededRandom(seed: 1)
        let content = random.bytes(10_000)
        let storage = try FileStorage(path: directory.write(content, to: "file"))
        #expect(storage.size == 10_000)
        #expect(try read(storage, at: 0, count: 10_000) == content)
        #expect(try read(storage, at: 9_990, count: 100) == Array(content[9_990...]))
        #expect(try read(storage, at: 9_999, count: 1) == [content[9_999]])
        #expect(try read(storage, at: 10_000, count: 1).isEmpty)
        #expect(try read(storage, at: 5, count: 0).isEmpty)
        #expect(try storage.bytes(at: HostOffset(4_000), count: 17) == Array(content[4_000..<4_017]))
        #expect(failureKind { _ = try storage.bytes(at: HostOffset(9_999), count: 2) } == .corrupt)
    }

    /// The largest file of the host is a want of room: nothing that was written is doubtful.
    @Test func aFileThatTheHostCannotMakeIsAWantOfRoom() throws {
        let storage = try FileStorage(path: directory.write([1, 2, 3], to: "file"), isWritable: true)
        do throws(ImageError) {
            try storage.resize(to: UInt64(Int64.max) - 4095)
            // A filesystem with files as large as this.
            #expect(storage.size == UInt64(Int64.max) - 4095)
        } catch {
            #expect(error.kind == .noSpace && error.errno == EFBIG, "\(error)")
            #expect(storage.size == 3)
        }
        try storage.resize(to: 2)
        #expect(storage.size == 2)
        #expect(try read(storage, at: 0, count: 3) == [1, 2])
    }

    @Test(arguments: [UInt64(Int64.max) - 1, UInt64(Int64.max), 1 << 63, .max])
    func offsetsThatNoFileHas(offset: UInt64) throws {
        let storage = try FileStorage(path: directory.write([1, 2, 3], to: "file"))
        #expect(try read(storage, at: offset, count: 16).isEmpty)
        #expect(try storage.nextData(from: HostOffset(offset)) == nil)
        #expect(try storage.nextHole(from: HostOffset(offset)).rawValue == 3)
        #expect(!storage.holds(HostOffset(offset), count: 1))
        #expect(!storage.holds(HostOffset(1), count: offset))
    }

    @Test func holesAreFound() throws {
        let path = directory.file("sparse")
        try HostFiles.truncate(path, to: 16 << 20)
        try HostFiles.patch([UInt8](repeating: 1, count: 1 << 20), at: 4 << 20, of: path)
        let storage = try FileStorage(path: path)
        try #require(try storage.allocatedBytes() < 8 << 20, "the filesystem keeps no holes")
        #expect(try storage.nextData(from: HostOffset(0))?.rawValue == 4 << 20)
        #expect(try storage.nextData(from: HostOffset(4 << 20 | 5))?.rawValue == 4 << 20 | 5)
        #expect(try storage.nextHole(from: HostOffset(4 << 20 | 5)).rawValue == 5 << 20)
        #expect(try storage.nextData(from: HostOffset(5 << 20)) == nil)
        #expect(try storage.nextHole(from: HostOffset(9 << 20)).rawValue == 9 << 20)
        #expect(try storage.allocatedBytes() >= 1 << 20)
    }

    @Test func sizeChangesWithRefreshOnly() throws {
        let path = try directory.write([UInt8](repeating: 1, count: 100), to: "file")
        let storage = try FileStorage(path: path)
        let before = try storage.stamp()
        try HostFiles.truncate(path, to: 5_000)
        #expect(storage.size == 100)
        #expect(try storage.refresh() == 5_000)
        #expect(storage.size == 5_000)
        #expect(try storage.stamp() != before)
    }

    @Test func identityOutlivesARename() throws {
        let storage = try FileStorage(path: directory.write([1], to: "a"))
        try runSuccessfully("mv", directory.file("a"), directory.file("b"))
        #expect(try FileStorage(path: directory.file("b")).identity == storage.identity)
        #expect(try FileStorage(path: directory.write([1], to: "a")).identity != storage.identity)
    }

    @Test func spliceMovesTheBytesIntoThePipe() throws {
        var random = SeededRandom(seed: 2)
        let content = random.bytes(100_000)
        let storage = try FileStorage(path: directory.write(content, to: "file"))
        var ends: [Int32] = [-1, -1]
        #expect(clinux_make_pipe(&ends, 1 << 20) >= 1 << 16)
        let output = FileDescriptor(rawValue: ends[0])
        let input = FileDescriptor(rawValue: ends[1])
        defer {
            try? output.close()
            try? input.close()
        }
        var moved: [UInt8] = []
        var position = 777
        while let count = try storage.splice(
            from: HostOffset(UInt64(position)), count: 60_000, into: PipeWriter(descriptor: ends[1])), count > 0
        {
            var buffer = [UInt8](repeating: 0, count: count)
            let got = try buffer.withUnsafeMutableBytes { try output.read(into: $0) }
            moved += buffer[..<got]
            position += count
        }
        #expect(moved == Array(content[777...]))
    }

    @Test func whatIsNoImageFile() throws {
        #expect(failureKind { _ = try FileStorage(path: directory.file("missing")) } == .missing)
        #expect(failureKind { _ = try FileStorage(path: directory.path) } == .unsupported)
        #expect(failureKind { _ = try FileStorage(path: "/dev/null") } == .unsupported)
        try runSuccessfully("mkfifo", directory.file("pipe"))
        #expect(failureKind { _ = try FileStorage(path: directory.file("pipe")) } == .unsupported)
        #expect(failureKind { _ = try FileStorage(path: directory.file("missing/deeper")) } == .missing)
        try runSuccessfully("ln", "-s", "loop", directory.file("loop"))
        #expect(failureKind { _ = try FileStorage(path: directory.file("loop")) } == .denied)
    }

    @Test func errorsNameTheFileAndTheReason() throws {
        do {
            _ = try FileStorage(path: directory.file("missing"))
            Issue.record("opened a file that is not there")
        } catch {
            #expect("\(error)".hasPrefix(directory.file("missing") + ": "))
            #expect(error.errno == Errno.noSuchFileOrDirectory.rawValue)
        }
    }
}
