internal import Bytes
internal import Disk
internal import Glibc
internal import Storage
internal import TestSupport
internal import Testing

/// A disk without a chain: reads, splices and seeks of a raw file on a real filesystem.
struct RawDiskTests {
    private let scratch: TemporaryDirectory
    private let model: [UInt8]
    private let disk: Disk

    init() throws {
        scratch = try TemporaryDirectory("disk")
        var random = SeededRandom(seed: 7)
        let block = random.bytes(65521)
        model = (0..<48).flatMap { _ in block }
        disk = try Disk.open(path: scratch.write(model, to: "disk.raw"), options: .quiet)
    }

    @Test func readsWhatTheFileHolds() throws {
        #expect(disk.size == UInt64(model.count))
        #expect(try disk.content() == model)
        #expect(try disk.content(ByteRange(511, to: 70_001)) == Array(model[511..<70_001]))
        #expect(try disk.content(ByteRange(5, to: 5)).isEmpty)
    }

    @Test func refusesReadsOutside() throws {
        let end = disk.size
        #expect(throws: ImageError.self) { try disk.content(ByteRange(end - 1, to: end + 1)) }
        #expect(throws: ImageError.self) { try disk.content(ByteRange(end + 5, to: end + 6)) }
    }

    @Test(arguments: [(0, 1 << 20), (4096, 512 << 10), (1, 8192), (100_003, 300_001)])
    func feedsExactlyTheRange(_ start: Int, _ count: Int) throws {
        let pipe = try Pipe()
        let range = ByteRange(UInt64(start), to: UInt64(start + count))
        #expect(try disk.feed(range, into: pipe.writer, capacityPages: pipe.pages) == .done)
        #expect(try pipe.drain() == Array(model[start..<(start + count)]))
    }

    @Test func feedsNothingThatDoesNotFit() throws {
        let pipe = try Pipe()
        let small = ByteRange(0, to: 8191)
        #expect(try disk.feed(small, into: pipe.writer, capacityPages: pipe.pages) == .unsuitable)
        // An unaligned start takes one page more than the bytes need.
        let unaligned = ByteRange(1, to: 1 + 65536)
        #expect(try disk.feed(unaligned, into: pipe.writer, capacityPages: 16) == .unsuitable)
        #expect(try pipe.drain().isEmpty)
        #expect(try disk.feed(unaligned, into: pipe.writer, capacityPages: 17) == .done)
    }

    @Test func shortFileIsAnErrorAndNeverZeros() throws {
        let path = "\(scratch.path)/disk.raw"
        try #require(truncate(path, 1 << 20) == 0)
        let pipe = try Pipe()
        let across = ByteRange((1 << 20) - 65536, to: (1 << 20) + 65536)
        #expect(throws: ImageError.self) { try disk.content(across) }
        #expect(throws: ImageError.self) { try disk.feed(across, into: pipe.writer, capacityPages: pipe.pages) }
        #expect(try disk.content(ByteRange(0, to: 1 << 20)) == Array(model[..<(1 << 20)]))
    }

    @Test func seeksByTheHostsHoles() throws {
        let path = try scratch.write([UInt8](repeating: 1, count: 65536), to: "sparse.raw")
        try #require(truncate(path, 4 << 20) == 0)
        let sparse = try Disk.open(path: path, options: .quiet)
        #expect(try sparse.nextData(from: 0) == 0)
        let hole = try sparse.nextHole(from: 0)
        #expect(hole >= 65536 && hole <= sparse.size)
        #expect(try sparse.nextHole(from: sparse.size - 1) <= sparse.size)
        #expect(try sparse.nextData(from: sparse.size) == nil)
        #expect(try sparse.map(from: 0).map(\.range.length).reduce(0, +) == sparse.size)
        let allocated = try sparse.allocatedBytes()
        #expect(allocated >= 512 && allocated <= sparse.size)
    }

    @Test func peeksAtTheSize() throws {
        let path = "\(scratch.path)/disk.raw"
        #expect(try Disk.virtualSize(path: path, options: .quiet) == UInt64(model.count))
        #expect(throws: ImageError.self) { try Disk.virtualSize(path: path + "x", options: .quiet) }
    }
}
