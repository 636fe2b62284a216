internal import Bytes
internal import Disk
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// What `Disk.feed` does when the pipe is not what its caller said.
@Suite struct FeedTests {
    /// A pipe that is full before its time gives a copy, never an error and never a thread that waits for itself.
    @Test func aPipeThatIsFullBeforeItsTimeIsSpoiled() throws {
        let work = try TemporaryDirectory("feed")
        let path = try work.write([UInt8](repeating: 7, count: 1 << 20), to: "disk.raw")
        let disk = try Disk.open(path: path, options: DiskOptions())
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        defer {
            close(ends[0])
            close(ends[1])
        }
        let range = ByteRange(0, to: 1 << 20)
        // 64 KiB fit; the caller claims room for all of it.
        let answer = try disk.feed(range, into: PipeWriter(descriptor: ends[1]), capacityPages: 256)
        #expect(answer == .spoiled)
    }
}
