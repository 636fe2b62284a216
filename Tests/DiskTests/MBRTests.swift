internal import Bytes
@testable internal import Disk
internal import TestSupport
internal import Testing

/// The table in the first sector, slot by slot, and its chains of logical partitions.
struct MBRTests {
    private let disks: ScratchDisks

    init() throws { disks = try ScratchDisks() }

    private static let empty = mbrSlot(0, 0, 0)

    /// A disk of 1000 sectors with slots in some of them.
    private func disk(_ records: [Int: [[UInt8]]]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        for (sector, slots) in records { bytes.put(slots: slots, at: sector * 512) }
        return bytes
    }

    private func sectors(_ first: UInt64, _ end: UInt64) -> ByteRange { ByteRange(first * 512, to: end * 512) }

    @Test func readsPrimariesAndLogicals() throws {
        var bytes = disk([
            0: [mbrSlot(0x83, 1, 99, status: 0x80), mbrSlot(0x0F, 100, 900), Self.empty, mbrSlot(7, 50, 10)],
            100: [mbrSlot(0x83, 10, 20), mbrSlot(5, 200, 100)],
            300: [mbrSlot(0x82, 10, 30), mbrSlot(0x85, 400, 100)],
            500: [mbrSlot(0x82, 10, 40), Self.empty],
        ])
        bytes.put([0x78, 0x56, 0x34, 0x12], at: 440)
        let table = try disks.table(bytes)
        #expect(table.kind == .mbr && table.diskID == "0x12345678" && table.sectorSize == 512)
        #expect(table.entries.map(\.number) == [1, 4, 5, 6, 7])
        let ranges = [sectors(1, 100), sectors(50, 60), sectors(110, 130), sectors(310, 340), sectors(510, 550)]
        #expect(table.entries.map(\.range) == ranges)
        #expect(table.entries.map(\.type) == ["0x83", "0x07", "0x83", "0x82", "0x82"])
        #expect(table.entries.map(\.isBootable) == [true, false, false, false, false])
        #expect(table.report == nil)
    }

    /// An isohybrid medium: slot 1 is the medium from sector 0 on, of type 0 or 0x17.
    @Test(arguments: [0, 0x17] as [UInt8])
    func aSlotFromSectorZeroOnLeavesTheOthers(_ type: UInt8) throws {
        let bytes = disk([0: [mbrSlot(type, 0, 1000, status: 0x80), mbrSlot(0xEF, 400, 200)]])
        #expect(try disks.ranges(bytes) == [1: sectors(0, 1000), 2: sectors(400, 600)])
    }

    @Test func theLastPartitionIsCutAtTheEnd() throws {
        let bytes = disk([
            0: [mbrSlot(0x83, 10, 90), mbrSlot(0x83, 1000, 5), mbrSlot(0x83, 100, .max), mbrSlot(0x83, .max, .max)]
        ])
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.number) == [1, 3])
        #expect(table.entries.map(\.range) == [sectors(10, 100), sectors(100, 1000)])
        #expect(
            table.report
                == "partition table: cut at the end of the disk: partition 3; "
                + "left out, since past the end of the disk: partitions 2 and 4")
    }

    @Test func overlapsAreGivenAsTheyAre() throws {
        let bytes = disk([0: [mbrSlot(0x83, 10, 90), mbrSlot(0x83, 50, 100), mbrSlot(0x83, 10, 90)]])
        #expect(try disks.ranges(bytes) == [1: sectors(10, 100), 2: sectors(50, 150), 3: sectors(10, 100)])
    }

    /// With a status that no table has, the sector is a boot sector, as for Linux; each of the four counts.
    @Test(arguments: 0..<4)
    func oneImpossibleStatusMakesItABootSector(_ slot: Int) throws {
        var bytes = disk([0: [mbrSlot(0x83, 10, 90)]])
        bytes[446 + slot * 16] = 0x20
        let table = try disks.table(bytes)
        #expect(table.entries.isEmpty && table.problem?.contains("slot \(slot + 1)") == true)
        bytes[446 + slot * 16] = 0x80
        #expect(try disks.ranges(bytes) == [1: sectors(10, 100)])
    }

    /// Entries 3 and 4 of a record that were never cleared hold anything; those that are meant lie in their record.
    @Test func junkInRecordsTakesNoNumber() throws {
        let bytes = disk([
            0: [mbrSlot(0x0F, 100, 600)],
            100: [
                mbrSlot(0x83, 10, 20), mbrSlot(5, 200, 100), mbrSlot(0x69, 50, 30, status: 0x20),
                mbrSlot(0x6E, 100, 300),
            ],
            300: [
                mbrSlot(0x83, 10, 20), Self.empty, mbrSlot(0x6E, 90, 11), mbrSlot(0x83, 40, 60),
            ],
        ])
        #expect(try disks.ranges(bytes) == [5: sectors(110, 130), 6: sectors(310, 330), 7: sectors(340, 400)])
    }

    /// The record's own size may be larger than the extended partition's.
    @Test func thirdEntriesStayWithinTheExtendedPartition() throws {
        let bytes = disk([
            0: [mbrSlot(0x0F, 100, 300)],
            100: [Self.empty, mbrSlot(5, 200, 800), Self.empty, mbrSlot(0x83, 10, 20)],
            300: [mbrSlot(0x83, 10, 20), Self.empty, mbrSlot(0x83, 50, 51), mbrSlot(0x83, 50, 50)],
        ])
        #expect(try disks.ranges(bytes) == [5: sectors(110, 130), 6: sectors(310, 330), 7: sectors(350, 400)])
    }

    @Test func aLogicalPartitionThatDoesNotFitTakesItsNumber() throws {
        let bytes = disk([
            0: [mbrSlot(5, 100, 900)],
            100: [mbrSlot(0x83, 5000, 20), mbrSlot(5, 200, 100)],
            300: [mbrSlot(0x83, 10, 20), mbrSlot(5, 400, 500)],
            500: [mbrSlot(0x83, 10, 9000)],
        ])
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.number) == [6, 7])
        #expect(table.entries.map(\.range) == [sectors(310, 330), sectors(510, 1000)])
        #expect(table.report?.contains("past the end of the disk: partition 5") == true)
        #expect(table.report?.contains("cut at the end of the disk: partition 7") == true)
    }

    @Test func severalExtendedPartitionsCountOn() throws {
        let bytes = disk([
            0: [mbrSlot(0x85, 500, 100), mbrSlot(0x83, 10, 10), mbrSlot(5, 100, 100)],
            500: [mbrSlot(0x83, 10, 20)],
            100: [mbrSlot(0x83, 10, 20)],
        ])
        #expect(
            try disks.ranges(bytes) == [2: sectors(10, 20), 5: sectors(510, 530), 6: sectors(110, 130)])
    }

    @Test func chainsThatLoopEnd() throws {
        let bytes = disk([
            0: [mbrSlot(5, 100, 900)], 100: [mbrSlot(0x83, 10, 20), mbrSlot(5, 200, 100)],
            300: [mbrSlot(0x83, 10, 20), mbrSlot(5, 0, 100)],
        ])
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.number) == [5, 6])
        #expect(table.report?.contains("loop") == true)
    }

    @Test func chainsThatBreakSayWhere() throws {
        let bytes = disk([
            0: [mbrSlot(5, 100, 900), mbrSlot(5, 600, 90)],
            100: [mbrSlot(0x83, 10, 20), mbrSlot(5, 200, 100)],
            600: [mbrSlot(0x83, 10, 20), mbrSlot(5, 7000, 100)],
        ])
        let table = try disks.table(bytes)
        #expect(table.entries.map(\.number) == [5, 6])
        #expect(table.report?.contains("sector 300 holds no record") == true, "\(table)")
        #expect(table.report?.contains("leaves the disk at sector 7600") == true, "\(table)")
    }

    @Test func chainsWithoutEndAreCut() throws {
        var bytes = [UInt8](repeating: 0, count: 1000 * 512)
        bytes.put(slots: [mbrSlot(5, 1, 900)], at: 0)
        for sector in 1..<999 {
            bytes.put(slots: [mbrSlot(0x83, 1, 1), mbrSlot(5, UInt32(sector), 1)], at: sector * 512)
        }
        let table = try disks.table(bytes)
        #expect(table.entries.count == 251 && table.report?.contains("only the first 251") == true)
        // Records without a partition count as well.
        for sector in 1..<999 { bytes.put(slots: [Self.empty, mbrSlot(5, UInt32(sector), 1)], at: sector * 512) }
        bytes.put(slots: [mbrSlot(0x83, 1, 1)], at: 150 * 512)
        #expect(try disks.ranges(bytes).isEmpty)
    }

    /// libblkid sees the same partitions; it differs from Linux only where nothing fits.
    @Test(.enabled(if: Tool.has("partx"), "partx is missing"))
    func agreesWithPartx() throws {
        let bytes = disk([
            0: [mbrSlot(0x83, 1, 99, status: 0x80), mbrSlot(0x0F, 100, 900), Self.empty, mbrSlot(7, 50, 10)],
            100: [mbrSlot(0x83, 10, 20), mbrSlot(5, 200, 100), mbrSlot(0x69, 100, 9000)],
            300: [mbrSlot(0x82, 10, 30)],
        ])
        let seen = try runSuccessfully("partx", "-g", "-r", "-o", "NR,START,SECTORS", disks.path(bytes))
        let ours = try disks.table(bytes).entries.map { entry in
            "\(entry.number) \(entry.range.lower / 512) \(entry.range.length / 512)"
        }
        // It shows the extended partition too.
        #expect(seen.split(separator: "\n").filter { !$0.hasPrefix("2 ") }.map(String.init) == ours)
    }
}
