internal import Bytes
@testable internal import Disk
internal import Storage
internal import TestSupport
internal import Testing

/// Partition tables made of bytes, good and hostile.
struct PartitionTests {
    private static let linux = GUID(microsoft: "0fc63daf-8483-4772-8e79-3d69d8477de4") ?? .zero

    private let scratch: TemporaryDirectory

    init() throws { scratch = try TemporaryDirectory("partitions") }

    private func disk(_ bytes: [UInt8]) throws -> Disk {
        try Disk.open(path: scratch.write(bytes, to: "disk.raw"), options: .quiet)
    }

    private func ranges(_ bytes: [UInt8]) throws -> [Int: ByteRange] {
        Dictionary(uniqueKeysWithValues: try disk(bytes).partitions().map { ($0.number, $0.range) })
    }

    // MARK: - GPT

    /// A disk with a GPT and its backup, whose entries are (slot, first sector, last sector).
    private func gpt(
        _ entries: [(Int, UInt64, UInt64)], sectors: Int = 2048, sector: Int = 512, entryBytes: Int = 128,
        count: Int = 128
    ) -> [UInt8] {
        var disk = [UInt8](repeating: 0, count: sectors * sector)
        disk.put([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF], at: 446)
        disk.put(little: UInt32(1), at: 454)
        disk.put(little: UInt32(sectors - 1), at: 458)
        disk.put([0x55, 0xAA], at: 510)
        var table = [UInt8](repeating: 0, count: count * entryBytes)
        for (slot, first, last) in entries {
            let at = (slot - 1) * entryBytes
            table.put(little: Self.linux.low, at: at)
            table.put(little: Self.linux.high, at: at + 8)
            table.put(little: first, at: at + 32)
            table.put(little: last, at: at + 40)
            table.put(Array("n\0a\0m\0e\0".utf8), at: at + 56)
        }
        let tableSectors = (table.count + sector - 1) / sector
        for (place, start) in [(1, 2), (sectors - 1, sectors - 1 - tableSectors)] {
            disk.put(table, at: start * sector)
            var header = [UInt8](repeating: 0, count: 92)
            header.put(Array("EFI PART".utf8), at: 0)
            header.put(little: UInt32(0x10000), at: 8)
            header.put(little: UInt32(92), at: 12)
            header.put(little: UInt64(place), at: 24)
            header.put(little: UInt64(start), at: 72)
            header.put(little: UInt32(count), at: 80)
            header.put(little: UInt32(entryBytes), at: 84)
            header.put(little: crc(table), at: 88)
            header.put(little: crc(header), at: 16)
            disk.put(header, at: place * sector)
        }
        return disk
    }

    private func crc(_ bytes: [UInt8]) -> UInt32 {
        var crc = CRC32()
        crc.add(bytes.span.bytes, at: 0, count: bytes.count)
        return crc.value
    }

    @Test func knowsTheChecksum() {
        #expect(crc(Array("123456789".utf8)) == 0xCBF4_3926)
    }

    @Test(arguments: [512, 4096], [128, 256])
    func readsGPT(_ sector: Int, _ entryBytes: Int) throws {
        let bytes = gpt([(1, 100, 199), (5, 200, 200)], sector: sector, entryBytes: entryBytes)
        let found = try disk(bytes).partitions()
        #expect(found.map(\.name) == ["p1", "p5"])
        #expect(found.map(\.label) == ["name", "name"])
        #expect(found[0].type == "0fc63daf-8483-4772-8e79-3d69d8477de4")
        #expect(found[0].range == ByteRange(UInt64(100 * sector), to: UInt64(200 * sector)))
        #expect(found[1].disk.size == UInt64(sector))
    }

    @Test func partitionsShowTheirBytes() throws {
        var bytes = gpt([(1, 100, 199)])
        bytes.put([1, 2, 3, 4], at: 100 * 512)
        bytes.put([9], at: 200 * 512 - 1)
        let part = try #require(try disk(bytes).partitions().first?.disk)
        #expect(try part.content() == Array(bytes[(100 * 512)..<(200 * 512)]))
    }

    @Test func usesTheBackup() throws {
        for damaged in [512 + 20, 1024 + 33] {
            var bytes = gpt([(1, 100, 199)])
            bytes[damaged] ^= 0xFF
            #expect(try ranges(bytes) == [1: ByteRange(100 * 512, to: 200 * 512)])
            // With the copy damaged too nothing is left: the protective MBR is no partition table.
            bytes[bytes.count - 512 + 20] ^= 0xFF
            #expect(try ranges(bytes).isEmpty)
        }
    }

    /// Beside a protective entry the other slots mirror a GPT that is not there any more.
    @Test func aHybridTableWithoutItsGPTShowsNothing() throws {
        var bytes = gpt([(1, 100, 199)])
        bytes.put(slot(0x83, 100, 100), at: 462)
        #expect(try ranges(bytes) == [1: ByteRange(100 * 512, to: 200 * 512)])
        for place in [512, bytes.count - 512] { bytes[place] ^= 0xFF }
        #expect(try ranges(bytes).isEmpty)
    }

    @Test func aTableThatCannotBeReadHasABackup() throws {
        let bytes = gpt([(1, 100, 199)])
        let path = try scratch.write(bytes, to: "faulty")
        let file = FaultStorage(try FileStorage(path: path))
        let layer = Layer(
            path: path,
            driver: ModelDriver(
                units: [ModelDriver.Unit](repeating: .data, count: bytes.count / 512), unitBytes: 512,
                size: UInt64(bytes.count), file: file),
            firstFile: 0)
        let log = DiskOptions.quiet.log
        let open = OpenFiles([file], decoded: DecodeCache(limitBytes: 0), reporter: FailureReporter(log))
        let disk = Disk(name: path, layers: [layer], window: ByteRange(0, to: UInt64(bytes.count)), open: open)
        // Read 0 is the MBR, reads 1 and 2 are the GPT.
        for read in 1...2 {
            file.fail(at: read)
            #expect(try disk.partitions().map(\.range) == [ByteRange(100 * 512, to: 200 * 512)])
        }
        file.fail(at: 0)
        #expect(throws: ImageError.self) { try disk.partitions() }
    }

    @Test func leavesOutWhatIsNotOnTheDisk() throws {
        let bytes = gpt([(1, 100, 2047), (2, 100, 2048), (3, 300, 299), (4, .max, .max), (6, 0, .max), (7, 5, 6)])
        #expect(try Set(ranges(bytes).keys) == [1, 7])
    }

    @Test func boundsTheTable() throws {
        // More entries than anyone has, entries of odd sizes, and a table outside the disk: none is read.
        for (offset, value) in [(80, UInt32.max), (84, 0), (84, 129), (84, 64), (84, 1 << 31), (72, .max), (12, .max)] {
            var bytes = gpt([(1, 100, 199)])
            for place in [512, bytes.count - 512] {
                bytes.put(little: value, at: place + offset)
                bytes.put(little: UInt32(0), at: place + 16)
                bytes.put(little: crc(Array(bytes[place..<(place + 92)])), at: place + 16)
            }
            #expect(try ranges(bytes)[1]?.lower != 100 * 512)
        }
    }

    // MARK: - MBR

    private func slot(_ type: UInt8, _ first: UInt32, _ count: UInt32, status: UInt8 = 0) -> [UInt8] {
        var slot = [UInt8](repeating: 0, count: 16)
        slot[0] = status
        slot[4] = type
        slot.put(little: first, at: 8)
        slot.put(little: count, at: 12)
        return slot
    }

    private func put(_ slots: [[UInt8]], at sector: Int, of bytes: inout [UInt8]) {
        for (index, slot) in slots.enumerated() { bytes.put(slot, at: sector * 512 + 446 + index * 16) }
        bytes.put([0x55, 0xAA], at: sector * 512 + 510)
    }

    @Test func readsPrimariesAndLogicals() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        put([slot(0x83, 1, 99, status: 0x80), slot(0x0F, 100, 900), slot(0, 0, 0), slot(7, 50, 10)], at: 0, of: &bytes)
        put([slot(0x83, 10, 20), slot(5, 200, 100)], at: 100, of: &bytes)
        put([slot(0x82, 10, 30), slot(5, 400, 100)], at: 300, of: &bytes)
        put([slot(0x82, 10, 9999), slot(0, 0, 0)], at: 500, of: &bytes)
        let expected: [Int: ByteRange] = [
            1: ByteRange(512, to: 100 * 512), 4: ByteRange(50 * 512, to: 60 * 512),
            5: ByteRange(110 * 512, to: 130 * 512), 6: ByteRange(310 * 512, to: 340 * 512),
        ]
        #expect(try ranges(bytes) == expected)
        #expect(try disk(bytes).partitions().map(\.type) == ["0x83", "0x07", "0x83", "0x82"])
    }

    @Test func chainsThatLoopEnd() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        put([slot(5, 100, 900)], at: 0, of: &bytes)
        put([slot(0x83, 10, 20), slot(5, 200, 100)], at: 100, of: &bytes)
        put([slot(0x83, 10, 20), slot(5, 0, 100)], at: 300, of: &bytes)
        #expect(try ranges(bytes).keys.sorted() == [5, 6])
    }

    @Test func chainsWithoutEndAreCut() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        put([slot(5, 1, 900)], at: 0, of: &bytes)
        for sector in 1..<999 { put([slot(0x83, 1, 1), slot(5, UInt32(sector), 1)], at: sector, of: &bytes) }
        #expect(try ranges(bytes).count == 128)
    }

    @Test func bootSectorsAreNoTables() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        #expect(try ranges(bytes).isEmpty)
        bytes.put([0x55, 0xAA], at: 510)
        #expect(try ranges(bytes).isEmpty)
        bytes.put(Array("Remove disks or other media. Press any key to restart".utf8), at: 446)
        #expect(try ranges(bytes).isEmpty)
        var outside = [UInt8](repeating: 0, count: 1000 * 512)
        put([slot(0x83, 1, 1000)], at: 0, of: &outside)
        #expect(try ranges(outside).isEmpty)
        #expect(try ranges([1, 2, 3]).isEmpty)
    }

    @Test(arguments: 0..<40)
    func randomTablesAreHarmless(_ seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        var bytes = gpt([(1, 100, 199), (2, 300, 400)], sectors: 256, count: 16)
        if seed % 2 == 0 { bytes = random.bytes(64 * 512) }
        bytes.put([0x55, 0xAA], at: 510)
        for _ in 0..<seed {
            bytes[Int.random(in: 0..<2048, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        let disk = try disk(bytes)
        for part in try disk.partitions() {
            #expect(part.range.upper <= disk.size && !part.range.isEmpty)
            #expect(try part.disk.content().count == Int(part.range.length))
        }
    }
}

extension [UInt8] {
    /// Replaces bytes from `offset` on.
    fileprivate mutating func put(_ bytes: [UInt8], at offset: Int) {
        replaceSubrange(offset..<(offset + bytes.count), with: bytes)
    }

    /// Stores an integer little-endian.
    fileprivate mutating func put(little value: some FixedWidthInteger, at offset: Int) {
        Swift.withUnsafeBytes(of: value.littleEndian) { put(Array($0), at: offset) }
    }
}
