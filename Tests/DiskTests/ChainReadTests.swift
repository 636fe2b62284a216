internal import Bytes
@testable internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import Synchronization
internal import TestSupport
internal import Testing

/// Reads, splices and seeks through layers of different sizes, against a model.
struct ChainReadTests {
    private static let shapes: [[Int]] = [
        [1 << 16], [1 << 16, 1 << 16], [1 << 16, 37_000, 1 << 16], [50_001, 1 << 16], [1 << 16, 1024, 2048, 30_720],
    ]

    private let scratch: TemporaryDirectory

    init() throws { scratch = try TemporaryDirectory("chain") }

    @Test(arguments: shapes, [UInt64(1), 2, 3])
    func readsAsTheModel(_ sizes: [Int], _ seed: UInt64) throws {
        let chain = try ModelChain(sizes: sizes, encoded: true, seed: seed, in: scratch)
        #expect(try chain.disk.content() == chain.content)
        var random = SeededRandom(seed: seed)
        for _ in 0..<200 {
            let start = Int.random(in: 0..<sizes[0], using: &random)
            let count = Int.random(in: 0...min(sizes[0] - start, 20_000), using: &random)
            let range = ByteRange(UInt64(start), to: UInt64(start + count))
            #expect(try chain.disk.content(range) == Array(chain.content[start..<(start + count)]), "\(range)")
        }
    }

    @Test(arguments: shapes, [UInt64(4), 5])
    func feedsAsTheModel(_ sizes: [Int], _ seed: UInt64) throws {
        let chain = try ModelChain(sizes: sizes, encoded: false, seed: seed, in: scratch)
        let pipe = try Pipe()
        var random = SeededRandom(seed: seed)
        var fed = 0
        for _ in 0..<200 {
            let start = Int.random(in: 0..<sizes[0], using: &random)
            let count = Int.random(in: 0...min(sizes[0] - start, 40_000), using: &random)
            let range = ByteRange(UInt64(start), to: UInt64(start + count))
            let answer = try chain.disk.feed(range, into: pipe.writer, capacityPages: pipe.pages)
            let bytes = try pipe.drain()
            #expect(bytes == (answer == .done ? Array(chain.content[start..<(start + count)]) : []), "\(range)")
            if answer == .done { fed += 1 }
        }
        #expect(fed > 20)
    }

    @Test func encodedRunsAreNotFed() throws {
        let chain = try ModelChain(sizes: [1 << 16], encoded: true, seed: 1, in: scratch)
        let pipe = try Pipe()
        let all = ByteRange(0, to: 65536)
        #expect(try chain.disk.feed(all, into: pipe.writer, capacityPages: pipe.pages) == .unsuitable)
        #expect(try pipe.drain().isEmpty)
    }

    @Test(arguments: shapes)
    func seeksAndMapsAsTheModel(_ sizes: [Int]) throws {
        let chain = try ModelChain(sizes: sizes, encoded: true, seed: 9, in: scratch)
        var position: UInt64 = 0
        var runs: [MappedRun] = []
        while case let more = try chain.disk.map(from: position), !more.isEmpty {
            #expect(more[0].range.lower == position)
            runs += more
            position = more[more.count - 1].range.upper
        }
        #expect(position == chain.disk.size)
        for run in runs where run.place == .zero || run.place == .hole {
            let bytes = chain.content[Int(run.range.lower)..<Int(run.range.upper)]
            #expect(bytes.allSatisfy { $0 == 0 })
            #expect(try chain.disk.nextHole(from: run.range.lower) == run.range.lower)
        }
        // Every byte that is not zero lies between a SEEK_DATA and the SEEK_HOLE after it.
        var covered = [Bool](repeating: false, count: chain.content.count)
        var cursor: UInt64 = 0
        while let data = try chain.disk.nextData(from: cursor) {
            cursor = try chain.disk.nextHole(from: data)
            #expect(cursor > data)
            for index in Int(data)..<Int(cursor) { covered[index] = true }
        }
        for index in covered.indices where !covered[index] { try #require(chain.content[index] == 0) }
    }

    @Test func windowsAndLowerLayers() throws {
        let sizes = [1 << 16, 37_000, 1 << 16]
        let chain = try ModelChain(sizes: sizes, encoded: true, seed: 11, in: scratch)
        let part = try #require(chain.disk.part(ByteRange(1000, to: 30_000), name: "part"))
        let inner = try #require(part.part(ByteRange(24, to: 1024), name: "inner"))
        #expect(try part.content() == Array(chain.content[1000..<30_000]))
        #expect(try inner.content() == Array(chain.content[1024..<2024]))
        #expect(part.part(ByteRange(0, to: part.size + 1), name: "too long") == nil)
        #expect(throws: ImageError.self) { try part.content(ByteRange(part.size, to: part.size + 1)) }
        let directory = try TemporaryDirectory("lower")
        let lower = try ModelChain(sizes: Array(sizes[1...]), encoded: true, seed: 11, in: directory)
        #expect(chain.disk.layerDisk(1).size == 37_000)
        #expect(try chain.disk.layerDisk(1).content() == lower.content)
    }

    @Test func manyThreadsReadTheSame() throws {
        let chain = try ModelChain(sizes: [1 << 16, 37_000, 1 << 16], encoded: true, seed: 21, in: scratch)
        let wrong = Mutex(0)
        let threads = (0..<16).map { number in
            Thread {
                var random = SeededRandom(seed: UInt64(number))
                for _ in 0..<300 {
                    let start = Int.random(in: 0..<(1 << 16), using: &random)
                    let count = Int.random(in: 0...min((1 << 16) - start, 9000), using: &random)
                    let range = ByteRange(UInt64(start), to: UInt64(start + count))
                    let bytes = try? chain.disk.content(range)
                    if bytes != Array(chain.content[start..<(start + count)]) { wrong.withLock { $0 += 1 } }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(wrong.withLock { $0 } == 0)
    }

    @Test func everyFailureOfTheHostIsAnError() throws {
        let lines = LogLines()
        let chain = try ModelChain(
            sizes: [40_000, 30_000, 40_000], encoded: true, seed: 31, in: scratch, options: .logging(into: lines))
        var failures = 0
        for file in chain.files {
            for call in 0... {
                file.fail(at: call)
                do {
                    #expect(try chain.disk.content() == chain.content)
                    break
                } catch let error as ImageError {
                    #expect(error.kind == .io && error.file != nil)
                    failures += 1
                }
            }
            file.fail(at: nil)
        }
        #expect(failures > 15)
        #expect(lines.all.count == min(failures, 20))
        #expect(lines.all.allSatisfy { $0.contains("injected failure") && $0.contains("model") })
    }

    @Test func manyFailuresAreFewLines() {
        let lines = LogLines()
        let reporter = FailureReporter(DiskOptions.logging(into: lines).log)
        for position in 0..<1000 {
            reporter.report(ImageError(.corrupt, "broken", at: 7, file: "a.vhd"), on: "a.vhd", at: UInt64(position))
        }
        #expect(lines.all.count == 20)
        #expect(lines.all[3] == "error: a.vhd: read failed at byte 3 of the disk: a.vhd: broken at byte 7")
    }
}
