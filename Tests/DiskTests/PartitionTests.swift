internal import Bytes
@testable internal import Disk
internal import Storage
internal import TestSupport
internal import Testing

/// What GPT and MBR have in common: which of the two counts, units, words for disks without a table, and reading.
struct PartitionTests {
    private let disks: ScratchDisks

    init() throws { disks = try ScratchDisks() }

    @Test func knowsTheChecksum() {
        #expect(CRC32.of(Array("123456789".utf8).span.bytes) == 0xCBF4_3926)
    }

    @Test func partitionsShowTheirBytes() throws {
        var bytes = GPTBuilder([(1, 100, 199)]).build()
        bytes.put([1, 2, 3, 4], at: 100 * 512)
        bytes.put([9], at: 200 * 512 - 1)
        let disk = try disks.open(bytes)
        let entry = try #require(try disk.partitionTable().entries.first)
        #expect(try disk.partition(entry)?.content() == Array(bytes[(100 * 512)..<(200 * 512)]))
    }

    /// In whichever slot the protective record is and whatever size it claims, the GPT counts; without one that begins at
    /// sector 1 it does not.
    @Test func theProtectiveRecordDecides() throws {
        let mirror = mbrSlot(0x83, 300, 50)
        let empty = mbrSlot(0, 0, 0)
        let gpt: [Int: ByteRange] = [1: ByteRange(100 * 512, to: 200 * 512)]
        for slots in [
            [mbrSlot(0xEE, 1, 99), mirror], [mirror, mbrSlot(0xEE, 1, .max)],
            [empty, empty, empty, mbrSlot(0xEE, 1, 0)],
            [mbrSlot(0xEE, 1, 7, status: 0x80), mirror, mirror, mirror], [mbrSlot(0xEE, 1, 5, status: 0x17)],
        ] {
            var builder = GPTBuilder([(1, 100, 199)])
            builder.slots = slots
            #expect(try disks.ranges(builder.build()) == gpt)
        }
        var builder = GPTBuilder([(1, 100, 199)])
        builder.slots = [mirror, empty]
        #expect(try disks.ranges(builder.build()) == [1: ByteRange(300 * 512, to: 350 * 512)])
        builder.slots = [mbrSlot(0xEE, 2, 2046), mirror]
        let misplaced = try disks.table(builder.build())
        #expect(misplaced.kind == nil && misplaced.entries.isEmpty)
        #expect(misplaced.problem?.contains("begins at sector 2 and not at 1") == true)
        var bytes = builder.build()
        bytes.put([UInt8](repeating: 0, count: 512), at: 0)
        let unannounced = try disks.table(bytes)
        #expect(unannounced.kind == nil && unannounced.entries.isEmpty)
        #expect(unannounced.problem?.contains("does not announce it") == true)
    }

    /// The unit that the user names is the only one that is tried.
    @Test func theUnitCanBeNamed() throws {
        var small = GPTBuilder([(1, 100, 199)])
        small.sectors = 4096
        var large = GPTBuilder([(2, 64, 65)])
        (large.sector, large.sectors, large.count) = (4096, 512, 32)
        var bytes = small.build()
        // Both headers fit: that in units of 4096 lies behind the other's first six sectors of entries.
        for place in [4096..<(3 * 4096), (510 * 4096)..<(512 * 4096)] {
            bytes.put(Array(large.build()[place]), at: place.lowerBound)
        }
        #expect(try disks.ranges(bytes, unit: 4096) == [2: ByteRange(64 * 4096, to: 66 * 4096)])
        #expect(try disks.table(bytes, unit: 4096).remarks.contains { $0.contains("losetup -b 4096") })
        #expect(try disks.table(small.build(), unit: 4096).kind == nil)
        #expect(try disks.ranges(small.build(), unit: 512) == [1: ByteRange(100 * 512, to: 200 * 512)])
        #expect(try disks.ranges(large.build()) == [2: ByteRange(64 * 4096, to: 66 * 4096)])
        var mbr = [UInt8](repeating: 0, count: 1 << 20)
        mbr.put(slots: [mbrSlot(0x0C, 16, 16)], at: 0)
        #expect(try disks.ranges(mbr) == [1: ByteRange(16 * 512, to: 32 * 512)])
        #expect(try disks.ranges(mbr, unit: 4096) == [1: ByteRange(16 * 4096, to: 32 * 4096)])
    }

    @Test(arguments: [
        (3, "NTFS    ", "an NTFS filesystem"), (3, "EXFAT   ", "an exFAT filesystem"), (82, "FAT32   ", "a FAT"),
        (54, "FAT16   ", "a FAT"), (0, "XFSB", "an XFS"), (1080, "\u{53}", ""),
        (512, "LABELONE", "an LVM physical volume"),
        (4086, "SWAPSPACE2", "swap space"),
    ])
    func aDiskWithoutATableIsNamedByWhatItHolds(_ offset: Int, _ text: String, _ name: String) throws {
        var bytes = [UInt8](repeating: 0, count: 64 * 512)
        bytes.put(Array(text.utf8), at: offset)
        let plain = try disks.table(bytes)
        #expect(plain.kind == nil && plain.entries.isEmpty)
        let expected = name.isEmpty ? "it does not end in 55 AA" : name
        #expect(plain.problem?.contains(expected) == true, "\(plain)")
        guard !name.isEmpty else { return }
        // A boot sector has the signature too.
        bytes.put([0x55, 0xAA], at: 510)
        let boot = try disks.table(bytes)
        #expect(boot.kind == nil && boot.problem?.contains(name) == true, "\(boot)")
    }

    @Test func everyOtherDiskSaysWhyItHasNoPartitions() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        #expect(try disks.table(bytes).problem?.contains("it does not end in 55 AA") == true)
        bytes.put([0x53, 0xEF], at: 1080)
        #expect(try disks.table(bytes).problem?.contains("ext2, ext3 or ext4") == true)
        bytes.put([0, 0], at: 1080)
        bytes.put([0x55, 0xAA], at: 510)
        let empty = try disks.table(bytes)
        #expect(empty.kind == .mbr && empty.report == "partition table: it is empty")
        bytes.put(Array("Remove disks or other media. Press any key to restart".utf8), at: 446)
        #expect(try disks.table(bytes).problem?.contains("slot 1 of the first sector has an impossible status") == true)
        #expect(try disks.table([1, 2, 3]).problem == "the disk is smaller than a sector")
    }

    /// A table is read once, and again after each write.
    @Test func aWrittenTableIsReadAgain() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        bytes.put(slots: [mbrSlot(0x83, 100, 100)], at: 0)
        let disk = try disks.open(bytes, writable: true)
        #expect(try disk.partitionTable().entries.map(\.number) == [1])
        var sector = [UInt8](repeating: 0, count: 512)
        sector.put(slots: [mbrSlot(0, 0, 0), mbrSlot(0x83, 300, 100)], at: 0)
        try disk.write(sector, at: 0)
        #expect(try disk.partitionTable().entries.map(\.number) == [2])
        try disk.finish()
    }

    @Test(arguments: 0..<40)
    func randomTablesAreHarmless(_ seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        var builder = GPTBuilder([(1, 100, 199), (2, 220, 230)])
        (builder.sectors, builder.count) = (256, 16)
        var bytes = builder.build()
        if seed % 2 == 0 { bytes = random.bytes(64 * 512) }
        bytes.put([0x55, 0xAA], at: 510)
        if seed % 4 == 0 { for slot in 0..<4 { bytes[446 + slot * 16] = 0 } }
        for _ in 0..<seed {
            bytes[Int.random(in: 0..<2048, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        let disk = try disks.open(bytes)
        for entry in try disk.partitionTable().entries {
            #expect(entry.range.upper <= disk.size && !entry.range.isEmpty)
            #expect(try disk.partition(entry)?.content().count == Int(entry.range.length))
        }
    }

    @Test func typesHaveNames() throws {
        func name(_ type: String) -> String? {
            PartitionEntry(number: 1, type: type, range: ByteRange(0, to: 1)).typeName
        }
        #expect(name("c12a7328-f81f-11d2-ba4b-00a0c93ec93b") == "EFI System")
        #expect(name(GPTBuilder.linux.microsoftText) == "Linux filesystem")
        #expect(name("0x83") == "Linux")
        #expect(name("0x69") == nil)
        #expect(PartitionTable.words([3]) == "partition 3")
        #expect(PartitionTable.words([3, 4]) == "partitions 3 and 4")
        #expect(PartitionTable.words(Array(1...10)) == "partitions 1, 2, 3, 4, 5, 6, 7, 8 and 2 more")
    }
}

/// Raw disks made of bytes, and their tables.
struct ScratchDisks {
    private let scratch: TemporaryDirectory

    init() throws { scratch = try TemporaryDirectory("partitions") }

    func path(_ bytes: [UInt8]) throws -> String { try scratch.write(bytes, to: "disk.raw") }

    func open(_ bytes: [UInt8], unit: UInt64? = nil, writable: Bool = false) throws -> Disk {
        var options = DiskOptions.quiet
        options.tableSectorSize = unit
        options.isWritable = writable
        return try Disk.open(path: path(bytes), options: options)
    }

    func table(_ bytes: [UInt8], unit: UInt64? = nil) throws -> PartitionTable {
        try open(bytes, unit: unit).partitionTable()
    }

    /// The ranges of the partitions by their numbers.
    func ranges(_ bytes: [UInt8], unit: UInt64? = nil) throws -> [Int: ByteRange] {
        Dictionary(uniqueKeysWithValues: try table(bytes, unit: unit).entries.map { ($0.number, $0.range) })
    }
}
