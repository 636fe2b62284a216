import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Images whose tables claim far more than the file holds: a check of them ends soon and takes little memory.
@Suite struct QCOW2CheckHostileTests {
    private static let cluster: UInt64 = 65_536
    private static let l1: UInt64 = 16 << 20
    private static let table: UInt64 = 1 << 20
    private static let snapshots: UInt64 = 64 << 20

    /// A file of 2^55 bytes, nearly all of it a hole, with `entries` L1 entries that name `tables` L2 tables in turn, each
    /// full of clusters 2^35 bytes apart, and `copies` snapshots of the same tables.
    private func image(entries: Int, tables: Int, copies: Int) -> SparseMemoryStorage {
        let storage = SparseMemoryStorage(size: 1 << 55)
        var header = [UInt8](repeating: 0, count: 112)
        header.put(UInt32(0x5146_49FB), at: 0)
        header.put(UInt32(3), at: 4)
        header.put(UInt32(16), at: 20)
        header.put(UInt64(1) << 30, at: 24)
        header.put(UInt32(entries), at: 36)
        header.put(Self.l1, at: 40)
        header.put(Self.cluster, at: 48)
        header.put(UInt32(1), at: 56)
        header.put(UInt32(copies), at: 60)
        header.put(copies == 0 ? 0 : Self.snapshots, at: 64)
        header.put(UInt32(4), at: 96)
        header.put(UInt32(112), at: 100)
        storage.patch(header, at: 0)
        var l1 = [UInt8](repeating: 0, count: entries * 8)
        for index in 0..<entries {
            l1.put(1 << 63 | Self.table + UInt64(index % tables) * Self.cluster, at: index * 8)
        }
        storage.patch(l1, at: Self.l1)
        for number in 0..<tables {
            var table = [UInt8](repeating: 0, count: Int(Self.cluster))
            for index in 0..<8192 {
                table.put(1 << 63 | UInt64(number * 8192 + index + 1) << 35, at: index * 8)
            }
            storage.patch(table, at: Self.table + UInt64(number) * Self.cluster)
        }
        var entry = [UInt8](repeating: 0, count: 56)
        entry.put(Self.l1, at: 0)
        entry.put(UInt32(entries), at: 8)
        entry.put(UInt32(16), at: 36)
        entry.put(UInt64(1) << 30, at: 48)
        storage.patch((0..<copies).flatMap { _ in entry }, at: Self.snapshots)
        return storage
    }

    private func check(_ storage: any Storage) throws -> CheckReport {
        try QCOW2.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: false)
    }

    @Test(.timeLimit(.minutes(5)))
    func sharedTablesAreWalkedOnceAndCountedAsOftenAsTheyAreNamed() throws {
        // Walked for each snapshot and each entry that names it, the table would be read four billion times.
        let report = try check(image(entries: 65_536, tables: 1, copies: 65_536))
        let places = report.findings.filter { $0.severity == .corruption }.flatMap(\.places)
        let data = try #require(places.first { $0.offset == 1 << 35 })
        #expect(data.detail?.contains("used \(UInt64(65_536) * 65_537) times") == true)
        // However many there are, few are kept.
        #expect(places.count <= 2 * CheckReport.keptPlaces)
        #expect(report.corruptions > 8192)
    }

    @Test(.timeLimit(.minutes(5)))
    func countingPlacesAllOverAHugeFileStopsAtALimitOfMemory() throws {
        let failure = imageError { _ = try check(image(entries: 64, tables: 64, copies: 0)) }
        #expect(failure?.kind == .unsupported)
        #expect(failure?.what.description.contains("memory") == true)
    }

    @Test(.timeLimit(.minutes(5)))
    func tablesThatNameThemselvesAreCountedOnce() throws {
        let storage = image(entries: 16, tables: 1, copies: 0)
        var table = [UInt8](repeating: 0, count: Int(Self.cluster))
        for index in 0..<8192 { table.put(1 << 63 | Self.table, at: index * 8) }
        storage.patch(table, at: Self.table)
        let report = try check(storage)
        let found = try #require(report.findings.flatMap(\.places).first { $0.offset == Self.table })
        #expect(found.detail?.contains("used \(16 + 16 * 8192) times") == true)
    }

    @Test func aSnapshotThatNothingOpensIsAFinding() throws {
        let storage = image(entries: 2, tables: 1, copies: 1)
        storage.patch([UInt8](repeating: 0, count: Int(Self.cluster)), at: Self.table)
        var length = [UInt8](repeating: 0, count: 4)
        length.put(UInt32(2000), at: 0)
        storage.patch(length, at: Self.snapshots + 36)
        #expect(imageError { _ = try QCOW2.open(OpenRequest(storage: storage, companions: NoCompanions())) } != nil)
        let report = try check(storage)
        #expect(report.findings.contains { $0.what.contains("1024") && $0.severity == .corruption })
    }
}
