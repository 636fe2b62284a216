import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What a check repairs, on files: each repair leaves an image that a second check finds clean.
@Suite struct VHDXCheckRepairTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory("repair") }

    /// A file of what `storage` holds, holes left out.
    private func file(_ storage: SparseMemoryStorage) throws -> FileStorage {
        let path = directory.file("image.vhdx")
        try HostFiles.truncate(path, to: 0)
        try HostFiles.truncate(path, to: storage.size)
        var position: UInt64 = 0
        while let data = try storage.nextData(from: HostOffset(position)) {
            let end = try storage.nextHole(from: data)
            let bytes = try storage.bytes(at: data, count: Int(end.rawValue - data.rawValue))
            try HostFiles.patch(bytes, at: Int64(data.rawValue), of: path)
            position = end.rawValue
        }
        return try FileStorage(path: path, isWritable: true)
    }

    private func fact(_ name: String, _ storage: any Storage) throws -> String? {
        try VHDXCreateTests.open(storage).shape.facts.first { $0.name == name }?.value
    }

    @Test(arguments: [65_636, 131_172, 200_000, 270_000] as [UInt64])
    func damagedCopyIsWrittenAgain(place: UInt64) throws {
        let image = VHDXCheckTests.clean().build()
        image.patch([1], at: place)
        let file = try file(image)
        let before = try fact("data write GUID", file)
        let writer = try fact("file write GUID", file)
        let report = try VHDXCheckTests.check(file, repairs: true)
        #expect(report.corruptions == 0)
        #expect(report.corruptionsRepaired == 1)
        #expect(try VHDXCheckTests.check(file).findings.isEmpty)
        #expect(try fact("data write GUID", file) == before, "no byte of the disk has changed")
        #expect(try fact("file write GUID", file) != writer)
    }

    @Test func withoutRepairsNothingIsWritten() throws {
        let image = VHDXCheckTests.clean().build()
        image.patch([1], at: 131_172)
        let path = try file(image).name
        let before = try SHA256.of(HostFiles.read(path))
        #expect(try VHDXCheckTests.check(try FileStorage(path: path)).corruptions == 1)
        #expect(try SHA256.of(HostFiles.read(path)) == before)
    }

    @Test func cleanImageIsNotTouchedByARepair() throws {
        let file = try file(VHDXCheckTests.clean().build())
        let before = try SHA256.of(HostFiles.read(file.name))
        #expect(try VHDXCheckTests.check(file, repairs: true).findings.isEmpty)
        #expect(try SHA256.of(HostFiles.read(file.name)) == before)
    }

    @Test func unequalRegionTableIsReplacedByTheFirst() throws {
        let builder = VHDXCheckTests.clean()
        let image = builder.build()
        var other = builder
        other.regions[0].length += 1 << 20
        image.patch(other.regionTable(), at: 256 << 10)
        let file = try file(image)
        #expect(try VHDXCheckTests.check(file, repairs: true).corruptionsRepaired == 1)
        #expect(try file.bytes(at: HostOffset(256 << 10), count: 64 << 10) == builder.regionTable())
        #expect(try VHDXCheckTests.check(file).findings.isEmpty)
    }

    @Test func unusedEndIsCutOff() throws {
        let builder = VHDXCheckTests.clean()
        let image = builder.build()
        image.patch([1], at: builder.nextFree + (3 << 20))
        let file = try file(image)
        let report = try VHDXCheckTests.check(file, repairs: true)
        #expect(report.leaks == 0)
        #expect(report.leaksRepaired == 4)
        #expect(file.size == builder.nextFree)
        #expect(try VHDXCheckTests.check(file).findings.isEmpty)
    }

    /// A block that lies past the end may have lost its place there; what follows is nobody's to cut off.
    @Test func endOfAnImageWithOtherDamageIsKept() throws {
        var builder = VHDXCheckTests.clean()
        builder.entries[2] = 6
        let image = builder.build()
        image.patch([1], at: builder.nextFree + (3 << 20))
        let file = try file(image)
        let report = try VHDXCheckTests.check(file, repairs: true)
        #expect(report.corruptions == 1)
        #expect(report.leaks == 4)
        #expect(report.leaksRepaired == 0)
        #expect(file.size == image.size)
    }
}
