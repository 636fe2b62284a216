internal import CLinux
internal import Glibc
internal import TestSupport
internal import Testing

/// Random work on mounted disks against a model: one thread through every kind of file, and many threads at once.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable, Fuse.skipReason), .enabled(if: Tool.has("qemu-img"), "needs qemu-img"),
    .timeLimit(.minutes(20)))
struct RandomWriteTests {
    private let work: TemporaryDirectory
    /// How much longer than in `make test`: `make torture` sets PLATTER_TORTURE.
    private static let factor = getenv("PLATTER_TORTURE").flatMap { Int(String(cString: $0)) } ?? 1

    init() throws { work = try TemporaryDirectory("random") }

    /// What fsx does, on the whole disk, through a mapping of it, past the page cache, and on a partition of it.
    private final class Exerciser {
        static let size = 6 << 20
        static let part = (1 << 20)..<(5 << 20)
        private let whole: String
        private let view: String
        private var files: [(file: OpenedFile, start: Int, size: Int)] = []
        private var direct: OpenedFile
        private var map: UnsafeMutableRawPointer
        private(set) var model: [UInt8]
        private var random: SeededRandom
        private var history: [String] = []

        init(whole: String, view: String, model: [UInt8], seed: UInt64) throws {
            (self.whole, self.view, self.model) = (whole, view, model)
            random = SeededRandom(seed: seed)
            direct = try OpenedFile(whole, O_RDWR | Seen.direct)
            map =
                UnsafeMutableRawPointer(bitPattern: -1) ?? UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)
            try reopen()
        }

        func close() {
            munmap(map, Self.size)
            for file in files { file.file.close() }
            direct.close()
        }

        private func reopen() throws {
            files = [
                (try OpenedFile(whole), 0, Self.size),
                (try OpenedFile(view), Self.part.lowerBound, Self.part.count),
            ]
            direct = try OpenedFile(whole, O_RDWR | Seen.direct)
            let new = mmap(nil, Self.size, PROT_READ | PROT_WRITE, MAP_SHARED, files[0].file.descriptor, 0)
            guard let new, new != MAP_FAILED else { throw HostFailure("mmap") }
            map = new
        }

        private func below(_ limit: Int) -> Int { Int(random.next() % UInt64(max(1, limit))) }

        func step() throws {
            let (file, start, size) = files[below(2)]
            let count = 1 + below(below(8) == 0 ? 700_000 : 9000)
            let offset = below(size - count)
            let place = (start + offset)..<(start + offset + count)
            let operation = below(100)
            history.append("\(operation) \(start) \(offset) \(count)")
            switch operation {
            case 0..<30: try write(place) { try file.write($0, at: offset) }
            case 30..<50: try expect(place, file.read(count, at: offset), "read")
            case 50..<58:
                try file.allocate(below(2) == 0 ? 3 : 17, at: offset, count: count)
                model.replaceSubrange(place, with: [UInt8](repeating: 0, count: count))
            case 58..<68:
                try write(place) { $0.copy(to: map + place.lowerBound) }
                // Only what msync(2) has returned for is seen through the other files.
                guard msync(map, Self.size, MS_SYNC) == 0 else { throw HostFailure("msync") }
            case 68..<78:
                try expect(place, Array(UnsafeRawBufferPointer(start: map + place.lowerBound, count: count)), "map")
            case 78..<90: try directly(isWriting: operation < 84)
            case 90..<97: try file.synchronise()
            default:
                close()
                try reopen()
            }
        }

        private func directly(isWriting: Bool) throws {
            let count = 4096 * (1 + below(40))
            let offset = below((Self.size - count) / 4096) * 4096
            let bytes = Content.random(count, seed: random.next())
            let space = try Seen.aligned(bytes)
            defer { free(space) }
            let place = offset..<(offset + count)
            let done =
                isWriting
                ? pwrite(direct.descriptor, space, count, off_t(offset))
                : pread(direct.descriptor, space, count, off_t(offset))
            guard done == count else { throw HostFailure("direct: \(done) of \(count) at \(offset)") }
            if isWriting {
                model.replaceSubrange(place, with: bytes)
            } else {
                try expect(place, Array(UnsafeRawBufferPointer(start: space, count: count)), "direct")
            }
        }

        private func write(_ place: Range<Int>, _ body: ([UInt8]) throws -> Void) throws {
            let bytes = Array(Content.random((place.count + 7) / 8 * 8, seed: random.next())[..<place.count])
            try body(bytes)
            model.replaceSubrange(place, with: bytes)
        }

        private func expect(_ place: Range<Int>, _ bytes: [UInt8], _ how: String) throws {
            guard !Content.isSame(bytes, model, at: place.lowerBound) else { return }
            let wrong = zip(bytes, model[place]).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1
            throw HostFailure(
                "\(how) of \(place.count) at \(place.lowerBound): wrong from byte \(wrong) on, after \(history.suffix(12))",
                errno: 0)
        }
    }

    @Test(arguments: WritableFormat.all)
    func allFilesOfADiskAgreeWithTheModel(format: WritableFormat) throws {
        let image = try format.make(Exerciser.size, in: work)
        var model = [UInt8](repeating: 0, count: Exerciser.size)
        for seed in 1...UInt64(2 * Self.factor) {
            let served = try Served.writable(image, "partitions")
            let whole = served.path(format.shown())
            let table: [UInt8] = [0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 32, 0, 0]
            try HostFiles.patch(table + [UInt8](repeating: 0, count: 48) + [0x55, 0xAA], at: 446, of: whole)
            model.replaceSubrange(446..<512, with: table + [UInt8](repeating: 0, count: 48) + [0x55, 0xAA])
            let view = served.path((format.name == "raw" ? "disk.raw" : "disk.\(format.name)") + ".parts/p1.raw")
            let exerciser = try Exerciser(whole: whole, view: view, model: model, seed: seed)
            for _ in 0..<(500 * Self.factor) { try exerciser.step() }
            exerciser.close()
            model = exerciser.model
            #expect(try served.unmount() == 0)
            try format.expectEqual(image, work.write(model, to: "model"))
            try format.check(image)
        }
    }

    @Test(arguments: WritableFormat.all)
    func sixteenThreadsWriteWithoutMixingBytes(format: WritableFormat) throws {
        let size = 32 << 20
        let image = try format.make(size, in: work)
        let served = try Served.writable(image)
        let path = served.path(format.shown())
        let factor = Self.factor
        // Each thread owns every sixteenth piece: small ones that share allocation units, and large ones that span them.
        try concurrently(16) { index in
            let isDirect = index % 3 == 0
            let file = try OpenedFile(path, O_RDWR | (isDirect ? Seen.direct : 0))
            var random = SeededRandom(seed: UInt64(500 + index))
            var model: [Int: [UInt8]] = [:]
            for round in 0..<(150 * factor) {
                let piece = round % 4 == 0 ? 256 << 10 : 4096
                let area = round % 4 == 0 ? size / 2 : 0
                let offset = area + (16 * Int(random.next() % UInt64(size / 2 / piece / 16)) + index) * piece
                let space = try Seen.aligned(Content.random(piece, seed: random.next()))
                defer { free(space) }
                switch random.next() % 5 {
                case 0:
                    try file.allocate(3, at: offset, count: piece)
                    model[offset] = [UInt8](repeating: 0, count: piece)
                case 1, 2:
                    guard pread(file.descriptor, space, piece, off_t(offset)) == piece else {
                        throw HostFailure("read")
                    }
                    let expected = model[offset] ?? [UInt8](repeating: 0, count: piece)
                    guard Content.isEqual(space, expected, at: 0, count: piece) else {
                        throw HostFailure("thread \(index): wrong bytes at \(offset) in round \(round)", errno: 0)
                    }
                default:
                    guard pwrite(file.descriptor, space, piece, off_t(offset)) == piece else {
                        throw HostFailure("write")
                    }
                    model[offset] = Array(UnsafeRawBufferPointer(start: space, count: piece))
                }
                if random.next() % 50 == 0 { try file.synchronise() }
            }
            for (offset, bytes) in model {
                let space = try Seen.aligned(bytes)
                defer { free(space) }
                guard pread(file.descriptor, space, bytes.count, off_t(offset)) == bytes.count,
                    Content.isEqual(space, bytes, at: 0, count: bytes.count)
                else { throw HostFailure("thread \(index): wrong bytes at \(offset) in the end", errno: 0) }
            }
        }
        let flat = work.file("flat")
        try runSuccessfully("cp", "--sparse=always", path, flat)
        #expect(try served.unmount() == 0)
        try format.expectEqual(image, flat)
        try format.check(image)
    }
}

extension Content {
    /// Whether `bytes` are those of `model` from `offset` on.
    static func isSame(_ bytes: [UInt8], _ model: [UInt8], at offset: Int) -> Bool {
        bytes.withUnsafeBytes { seen in
            seen.baseAddress.map { isEqual($0, model, at: offset, count: bytes.count) } ?? true
        }
    }
}
