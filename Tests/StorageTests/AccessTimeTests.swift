import Bytes
import Storage
import TestSupport
import Testing

/// Who only reads a file leaves its access time alone where the host permits that.
@Suite(.enabled(if: AccessTime.isKept, "the filesystem keeps no access times"))
struct AccessTimeTests {
    private let directory: TemporaryDirectory
    private let path: String

    init() throws {
        directory = try TemporaryDirectory("atime")
        path = try directory.write([UInt8](repeating: 1, count: 4096), to: "image")
        try AccessTime.makeOld(path)
    }

    @Test func readingByPathAndBeneathADirectory() throws {
        let file = try FileStorage(path: path)
        #expect(try file.bytes(at: HostOffset(0), count: 4096).allSatisfy { $0 == 1 })
        #expect(AccessTime.isOld(path))
        let beneath = try Directory(path: directory.path).openFile(beneath: "image")
        #expect(try beneath.bytes(at: HostOffset(0), count: 4096).allSatisfy { $0 == 1 })
        #expect(AccessTime.isOld(path))
    }
}
