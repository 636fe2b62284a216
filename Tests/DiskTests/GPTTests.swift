internal import Bytes
@testable internal import Disk
internal import Storage
internal import TestSupport
internal import Testing

/// GUID partition tables, whole and damaged.
struct GPTTests {
    private let disks: ScratchDisks

    init() throws { disks = try ScratchDisks() }

    private static let first: [Int: ByteRange] = [1: ByteRange(100 * 512, to: 200 * 512)]

    @Test(
        arguments: [512, 4096],
        [(1, 128), (5, 128), (128, 128), (248, 128), (128, 256), (16, 4096), (1000, 512), (32768, 128)])
    func readsEveryArrayThatTheSpecificationAllows(_ sector: Int, _ shape: (count: Int, bytes: Int)) throws {
        var builder = GPTBuilder([(1, 8500, 8599), (shape.count, 8600, 8600)])
        if shape.count == 1 { builder.entries.removeLast() }
        (builder.sector, builder.count, builder.entryBytes, builder.sectors) = (sector, shape.count, shape.bytes, 17000)
        let table = try disks.table(builder.build())
        #expect(table.kind == .gpt && table.sectorSize == UInt64(sector))
        #expect(table.diskID == "04030201-0605-0807-090a-0b0c0d0e0f10")
        #expect(table.entries.map(\.number) == builder.entries.map(\.slot))
        let first = try #require(table.entries.first)
        #expect(first.type == "0fc63daf-8483-4772-8e79-3d69d8477de4" && first.typeName == "Linux filesystem")
        #expect(first.label == "name" && first.id == "00000001-0000-0000-0000-000000000000" && !first.isBootable)
        #expect(first.range == ByteRange(UInt64(8500 * sector), to: UInt64(8600 * sector)))
    }

    /// What is damaged in a header or its array, by an offset from the disk's beginning and from the backup's header.
    @Test(arguments: [
        (20, "the checksum of its header is wrong"), (0, "there is no header"),
        (512 + 33, "the checksum of its entries is wrong"),
    ])
    func usesTheBackup(_ damaged: Int, _ reason: String) throws {
        let builder = GPTBuilder([(1, 100, 199)])
        var bytes = builder.build()
        bytes[512 + damaged] ^= 0xFF
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.range) == [ByteRange(100 * 512, to: 200 * 512)])
        let report = try #require(table.report)
        #expect(report.contains("primary copy is damaged (\(reason)); the backup in sector 2047 is used"), "\(report)")
        // With the copy damaged too nothing is left: the protective MBR is no partition table.
        bytes[bytes.count - 512 + 20] ^= 0xFF
        let none = try disks.table(bytes)
        #expect(none.kind == nil && none.entries.isEmpty)
        let problem = try #require(none.problem)
        #expect(problem.contains("no copy of the GPT is whole (primary: \(reason)"), "\(problem)")
        #expect(problem.contains("backup in sector 2047: the checksum of its header is wrong"), "\(problem)")
    }

    @Test func bothArraysDamagedSaysSo() throws {
        var bytes = GPTBuilder([(1, 100, 199)]).build()
        bytes[1024] ^= 1
        bytes[bytes.count - 512 - 128 * 128] ^= 1
        let problem = try #require(try disks.table(bytes).problem)
        #expect(problem.components("the checksum of its entries is wrong") == 2, "\(problem)")
    }

    /// After a disk has grown, its backup is where the end was: where the primary copy says, or the protective record.
    @Test func findsTheBackupOfADiskThatHasGrown() throws {
        var builder = GPTBuilder([(1, 100, 199)])
        builder.madeFor = 1000
        #expect(try disks.ranges(builder.build()) == Self.first)
        #expect(try disks.table(builder.build()).remarks == [])
        let report = try disks.open(builder.build()).partitionReport()
        #expect(report.remarks.contains { $0.contains("in sector 999 and not at the end of the disk") })
        for damaged in [512 + 40, 1024 + 33] {
            var bytes = builder.build()
            bytes[damaged] ^= 0xFF
            bytes.put(little: UInt32.max, at: 458)
            #expect(try disks.ranges(bytes) == Self.first, "\(damaged)")
        }
        var bytes = builder.build()
        bytes.put([UInt8](repeating: 0, count: 33 * 512), at: 512)
        let table = try disks.table(bytes)
        #expect(table.entries.count == 1)
        #expect(table.remarks == ["its primary copy is damaged (there is no header); the backup in sector 999 is used"])
    }

    @Test func aDiskThatWasCutShortShowsWhatFits() throws {
        var builder = GPTBuilder([(1, 100, 199), (2, 300, 5000), (3, 3000, 5000)])
        builder.madeFor = 10_000
        let table = try disks.table(builder.build())
        #expect(table.entries.map(\.number) == [1])
        #expect(table.remarks.contains("left out, since past the end of the disk: partitions 2 and 3"))
        #expect(table.remarks.contains { $0.contains("the disk is shorter than the table says") })
    }

    @Test func aDamagedBackupIsNoMatterButWorthAWord() throws {
        var bytes = GPTBuilder([(1, 100, 199)]).build()
        bytes[bytes.count - 512 + 20] ^= 0xFF
        let disk = try disks.open(bytes)
        #expect(try disk.partitionTable().remarks == [])
        let report = disk.partitionReport()
        #expect(report.entries.count == 1)
        #expect(
            report.remarks.first?.contains("its backup in sector 2047 is damaged (the checksum of its header") == true)
        #expect(try disks.open(GPTBuilder([(1, 100, 199)]).build()).partitionReport().remarks == [])
    }

    /// Beside a protective entry the other slots mirror a GPT that is not there any more.
    @Test func aHybridTableWithoutItsGPTShowsNothing() throws {
        var builder = GPTBuilder([(1, 100, 199)])
        builder.slots = [mbrSlot(0xEE, 1, 99), mbrSlot(0x83, 100, 100)]
        var bytes = builder.build()
        #expect(try disks.ranges(bytes) == Self.first)
        for place in [512, bytes.count - 512] { bytes[place] ^= 0xFF }
        let table = try disks.table(bytes)
        #expect(table.entries.isEmpty && table.problem == "the first sector announces a GPT, but there is none")
    }

    @Test func aTableThatCannotBeReadHasABackup() throws {
        let bytes = GPTBuilder([(1, 100, 199)]).build()
        let path = try disks.path(bytes)
        let file = FaultStorage(try FileStorage(path: path))
        let driver = ModelDriver(
            units: [ModelDriver.Unit](repeating: .data, count: bytes.count / 512), unitBytes: 512,
            size: UInt64(bytes.count), file: file)
        let open = OpenFiles(
            [file], decoded: DecodeCache(limitBytes: 0), reporter: FailureReporter(DiskOptions.quiet.log))
        func disk() -> Disk {
            Disk(
                name: path, layers: [Layer(path: path, driver: driver, firstFile: 0)],
                window: ByteRange(0, to: UInt64(bytes.count)), open: open)
        }
        // Read 0 is the MBR, reads 1 and 2 are the GPT.
        for read in 1...2 {
            file.fail(at: read)
            let table = try disk().partitionTable()
            #expect(table.entries.map(\.range) == [ByteRange(100 * 512, to: 200 * 512)])
            #expect(table.remarks.first?.contains("it cannot be read") == true)
        }
        file.fail(at: 0)
        #expect(throws: ImageError.self) { try disk().partitionTable() }
        file.fail(at: 0)
        #expect(disk().partitionReport().problem?.contains("the table cannot be read") == true)
    }

    @Test func leavesOutWhatIsNotOnTheDisk() throws {
        let bytes = GPTBuilder([
            (1, 100, 2047), (2, 100, 2048), (3, 300, 299), (4, .max, .max), (6, 0, .max), (7, 5, 6), (8, 50, 60),
        ]).build()
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.number) == [1, 7, 8])
        #expect(
            table.remarks == [
                "left out, since past the end of the disk: partitions 2, 4 and 6",
                "left out, since ending before the beginning: partition 3",
            ])
    }

    @Test(arguments: [
        (80, UInt32.max, "entries"), (80, 32769, "32769 entries"), (80, 0, "0 entries"), (84, 0, "size of 0 bytes"),
        (84, 129, "129 bytes"), (84, 64, "64 bytes"), (84, 8192, "8192 bytes"), (84, 1 << 31, "size"),
        (72, .max, "do not lie on the disk"), (12, .max, "header has the impossible size"),
        (12, 91, "header has the impossible size"), (24, 3, "belongs into sector 3"),
    ])
    func boundsTheTable(_ offset: Int, _ value: UInt32, _ words: String) throws {
        let builder = GPTBuilder([(1, 100, 199)])
        var bytes = builder.build()
        for place in [1, 2047] { builder.patch(value, at: offset, place: place, of: &bytes) }
        let table = try disks.table(bytes)
        #expect(table.entries.isEmpty)
        #expect(table.problem?.contains(words) == true, "\(table.problem ?? "")")
    }

    @Test func aTableOfThousandsIsCut() throws {
        var builder = GPTBuilder((1...8192).map { ($0, UInt64(2100 + $0), UInt64(2100 + $0)) })
        (builder.count, builder.sectors) = (8192, 13000)
        let table = try disks.table(builder.build())
        #expect(table.entries.count == 1024)
        #expect(table.remarks == ["only the first 1024 partitions are shown"])
    }

    /// libblkid, which knows nothing of this program, sees the same partitions.
    @Test(.enabled(if: Tool.has("partx"), "partx is missing"), arguments: [512, 4096])
    func agreesWithPartx(_ sector: Int) throws {
        var builder = GPTBuilder([(1, 100, 199), (3, 200, 200), (128, 300, 1900)])
        builder.sector = sector
        var bytes = builder.build()
        for damage in [nil, sector + 20, 2 * sector + 5] as [Int?] {
            if let damage { bytes[damage] ^= 0xFF }
            let path = try disks.path(bytes)
            let seen = try runSuccessfully(
                "partx", "-g", "-r", "-o", "NR,START,SECTORS", "--sector-size", "\(sector)", path)
            let ours = try disks.table(bytes).entries.map { entry in
                "\(entry.number) \(entry.range.lower / 512) \(entry.range.length / 512)\n"
            }
            #expect(seen == ours.joined(), "\(damage ?? 0)")
            if let damage { bytes[damage] ^= 0xFF }
        }
    }
}

extension String {
    /// How often `text` is in the string.
    fileprivate func components(_ text: String) -> Int {
        var count = 0
        var rest = self[...]
        while let range = rest.firstRange(of: text) {
            count += 1
            rest = rest[range.upperBound...]
        }
        return count
    }
}
