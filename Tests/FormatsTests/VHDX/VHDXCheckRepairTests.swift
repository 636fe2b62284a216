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

    private func fact(_ key: String, _ storage: any Storage) throws -> Fact.Value? {
        try VHDXCreateTests.open(storage).shape.fact(key)
    }

    @Test(arguments: [65_636, 131_172, 200_000, 270_000] as [UInt64])
    func damagedCopyIsWrittenAgain(place: UInt64) throws {
        let image = VHDXCheckTests.clean().build()
        image.patch([1], at: place)
        let file = try file(image)
        let before = try fact("dataWriteGuid", file)
        let writer = try fact("fileWriteGuid", file)
        let report = try VHDXCheckTests.check(file, repairs: true)
        #expect(report.corruptions == 0)
        #expect(report.corruptionsRepaired == 1)
        #expect(try VHDXCheckTests.check(file).findings.isEmpty)
        #expect(try fact("dataWriteGuid", file) == before, "no byte of the disk has changed")
        #expect(try fact("fileWriteGuid", file) != writer)
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

    /// An image whose log makes the file longer, zeroes a range and changes a page and a table entry.
    private func dirty() -> (image: SparseMemoryStorage, builder: VHDXBuilder, page: [UInt8]) {
        var builder = VHDXCheckTests.clean(isPlain: true)
        let log = VHDXLogBuilder(&builder)
        let end = builder.nextFree
        var entries = [UInt8](repeating: 0, count: 4096)
        for (block, word) in [(0, builder.entries[0] ?? 0), (3, end | 6)] as [(Int, UInt64)] {
            entries.replaceSubrange((block * 8)..<(block * 8 + 8), with: VHDXBuilder.little(word))
        }
        let page = VHDXLogBuilder.page(5)
        let unused = builder.metadataOffset + (512 << 10)
        builder.storage.patch([7, 7, 7], at: unused + 8192)
        log.put(
            [.page(builder.tableOffset, entries), .page(unused, page), .zeros(unused + 8192, 4096)], at: 0, sequence: 5,
            tail: 0, last: end + (1 << 20))
        return (builder.build(), builder, page)
    }

    @Test func dirtyLogIsAppliedAndEmptied() throws {
        let (image, builder, page) = dirty()
        let file = try file(image)
        #expect(try fact("log", file) == .text("dirty"))
        #expect(try fact("logEntries", file) == .number(1))
        let report = try VHDXCheckTests.check(file, repairs: true)
        #expect(report.findings.map(\.isRepaired) == [false, true], "\(report.findings)")
        #expect(report.corruptions == 0 && report.leaks == 0)
        #expect(try fact("log", file) == .text("clean"))
        #expect(file.size == builder.nextFree + (1 << 20))
        let unused = builder.metadataOffset + (512 << 10)
        #expect(try file.bytes(at: HostOffset(unused), count: 4096) == page)
        #expect(try file.bytes(at: HostOffset(unused + 8192), count: 3) == [0, 0, 0])
        #expect(try VHDXCheckTests.check(file).findings.isEmpty)
        #expect(try VHDXCheckTests.check(file).allocatedBytes == 3 << 20)
    }

    @Test(.enabled(if: Oracle.isPresent, Oracle.skipReason))
    func qemuReadsWhatARepairHasReplayed() throws {
        let file = try file(dirty().image)
        _ = try VHDXCheckTests.check(file, repairs: true)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "vhdx", file.name])
        try Oracle.run("qemu-io", ["-r", "-f", "vhdx", "-c", "read -q -P 0 3145728 1048576", file.name])
    }
}
