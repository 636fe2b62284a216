import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// A small image whose tables all lead to one and the same table: looking at every unit of the disk would take days.
@Suite struct EndlessWalkTests {
    private static let cluster = 2 << 20

    /// A qcow2 image of 2^51 bytes: every L1 entry names one L2 table, in which every entry is `word`.
    private func image(_ word: UInt64, in directory: TemporaryDirectory) throws -> String {
        let entries = 4096
        let path = directory.file("endless.qcow2")
        var header = big(UInt32(0x5146_49FB)) + big(UInt32(3)) + [UInt8](repeating: 0, count: 12) + big(UInt32(21))
        header += big(UInt64(entries) << 39) + big(UInt32(0)) + big(UInt32(entries)) + big(UInt64(2 * Self.cluster))
        header += big(UInt64(Self.cluster)) + big(UInt32(1)) + [UInt8](repeating: 0, count: 36)
        header += big(UInt32(4)) + big(UInt32(112)) + [UInt8](repeating: 0, count: 8)
        try HostFiles.write(header, to: path)
        try HostFiles.truncate(path, to: UInt64(5 * Self.cluster))
        var table: [UInt8] = []
        for _ in 0..<512 { table += big(UInt64(3 * Self.cluster) | 1 << 63) }
        for index in 0..<(entries / 512) { try HostFiles.patch(table, at: at(2, index), of: path) }
        table = []
        for _ in 0..<512 { table += big(word) }
        for index in 0..<512 { try HostFiles.patch(table, at: at(3, index), of: path) }
        return path
    }

    private func at(_ cluster: Int, _ page: Int) -> Int64 { Int64(cluster * Self.cluster + page * 4096) }

    private func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        (1...(Value.bitWidth / 8)).map { UInt8(truncatingIfNeeded: value >> Value(Value.bitWidth - $0 * 8)) }
    }

    @Test func aSearchForDataInEndlessZerosEnds() throws {
        let directory = try TemporaryDirectory("endless")
        let disk = try Disk.open(path: image(1, in: directory), options: DiskOptions())
        #expect(disk.size == 1 << 51)
        #expect(try disk.nextHole(from: 12345) == 12345)
        let start = monotonicSeconds()
        let found = try disk.nextData(from: 4096)
        #expect(monotonicSeconds() - start < 20)
        // Zeros may be called data, where the search ended; the end of the disk was not reached.
        #expect(found.map { $0 > 1 << 40 && $0 < disk.size } == true)
        let runs = try disk.map(from: 0)
        #expect(runs.count == 1 && runs[0].place == .zero)
    }

    @Test func aSearchForAHoleInEndlessDataEnds() throws {
        let directory = try TemporaryDirectory("endless")
        let path = try image(UInt64(4 * Self.cluster) | 1 << 63, in: directory)
        let disk = try Disk.open(path: path, options: DiskOptions())
        let start = monotonicSeconds()
        #expect(try disk.nextHole(from: 0) == disk.size, "data must never be called a hole")
        #expect(monotonicSeconds() - start < 20)
        #expect(try disk.nextData(from: 4096) == 4096)
    }
}
