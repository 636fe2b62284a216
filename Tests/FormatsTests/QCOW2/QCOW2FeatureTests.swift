import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Extended L2 entries.
@Suite struct QCOW2SubclusterTests {
    /// Every subcluster from a seed: data, zero or unallocated, with and without a host cluster.
    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func everyMixtureOfSubclusters(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var builder = QCOW2Builder(clusterBits: 14, size: 16 * 16384)
        builder.incompatible = 16
        var expected: [UInt8] = []
        for index in 0..<16 as Range<UInt64> {
            let hasHost = index % 3 != 0
            let choice = (0..<32).map { _ in Int.random(in: 0...(hasHost ? 2 : 1), using: &random) }
            var second: UInt64 = 0
            for (bit, state) in choice.enumerated() {
                if state == 1 { second |= 1 << UInt64(bit + 32) }
                if state == 2 { second |= 1 << UInt64(bit) }
            }
            let content = random.bytes(16384)
            builder.clusters[index] = (hasHost ? builder.add(content) | 1 << 63 : 0, second)
            for (bit, state) in choice.enumerated() {
                let piece = content[(bit * 512)..<((bit + 1) * 512)]
                expected += state == 2 ? Array(piece) : [UInt8](repeating: state == 1 ? 0 : 0xBB, count: 512)
            }
        }
        let reader = try builder.open()
        let parent = DriverReader(
            try Raw.open(
                OpenRequest(
                    storage: MemoryStorage([UInt8](repeating: 0xBB, count: expected.count)), companions: NoCompanions())
            ))
        try checkFormatDriver(reader.driver, parent: parent, expected: ExpectedDisk(expected), seed: seed)
    }

    @Test(
        arguments: [
            ("both", 0x8000, 1 << 5 | 1 << 37), ("allocated without a host cluster", 0, 1),
            ("the zero flag", 0x8001, 1), ("compressed with subclusters", 1 << 62 | 0x8000, 1),
        ] as [(String, UInt64, UInt64)])
    func impossibleEntriesAreCorrupt(name: String, word: UInt64, second: UInt64) throws {
        var builder = QCOW2Builder(clusterBits: 14)
        builder.incompatible = 16
        _ = builder.add([UInt8](repeating: 1, count: 16384))
        builder.clusters = [0: (word, second), 1: (0, 1 << 32)]
        let reader = try builder.open()
        let error1 = imageError { _ = try reader.kind(at: 0) }
        #expect(error1?.kind == .corrupt)
        let error2 = imageError { _ = try reader.kind(at: 16383) }
        #expect(error2?.kind == .corrupt)
        #expect(try reader.kind(at: 16384) == "zero")
        #expect(try reader.kind(at: 16384 + 512) == "hole")
    }

    @Test func subclustersThatWereNeverWrittenNeedNoFile() throws {
        var builder = QCOW2Builder(clusterBits: 14)
        builder.incompatible = 16
        builder.clusters[0] = (0x14000, 3)
        var bytes = builder.build()
        bytes += [UInt8](repeating: 0, count: 0x14000 - bytes.count) + [UInt8](repeating: 5, count: 1024)
        let reader = try QCOW2Builder.open(bytes)
        #expect(try reader.bytes(0, 16384) == [UInt8](repeating: 5, count: 1024) + [UInt8](repeating: 0, count: 15360))
    }
}

/// External data files.
@Suite struct QCOW2DataFileTests {
    struct OneFile: CompanionOpener {
        let content: [UInt8]
        func openDataFile(_ name: String) throws(ImageError) -> any Storage {
            guard name == "disk.bin" else { throw ImageError(.missing, "no such file", detail: name) }
            return MemoryStorage(content, name: name)
        }
    }

    private func builder(name: String? = "disk.bin") -> QCOW2Builder {
        var builder = QCOW2Builder(size: 8 * 4096)
        builder.incompatible = 4
        builder.autoclear = 2
        if let name { builder.extensions = [(0x4441_5441, Array(name.utf8))] }
        return builder
    }

    @Test func clustersLieInTheDataFileAtTheirOwnOffset() throws {
        var random = SeededRandom(seed: 1)
        let content = random.bytes(8 * 4096)
        var builder = builder()
        builder.clusters = [0: (1 << 63, 0), 1: (4096 | 1 << 63, 0), 2: (8192 | 1, 0), 3: (1, 0), 5: (20480, 0)]
        let reader = try builder.open(OneFile(content: content))
        #expect(reader.driver.files.count == 2)
        #expect(reader.driver.decoder == nil)
        let kinds = try (0..<8).map { try reader.kind(at: $0 * 4096) }
        #expect(kinds == ["data", "data", "zero", "zero", "hole", "data", "hole", "hole"])
        #expect(try reader.bytes(0, 8192) == Array(content[..<8192]))
        let run = try reader.runs(ByteRange(0, to: 8192))[0]
        guard case .data(let file, let offset) = run.place else { throw ContractViolation("no data") }
        #expect(file.rawValue == 1 && offset.rawValue == 0 && run.length == 8192)
        #expect(reader.driver.shape.fact("dataFile") == .text("disk.bin"))
    }

    @Test(
        arguments: [
            ("another offset", 8192 | 1 << 63), ("another offset, zero", 8192 | 1), ("copied offset 0", 1 << 63),
            ("compressed", 1 << 62 | 0x3000),
        ] as [(String, UInt64)])
    func anEntryThatLeadsElsewhereIsCorrupt(name: String, entry: UInt64) throws {
        var builder = builder()
        builder.clusters[1] = (entry, 0)
        let reader = try builder.open(OneFile(content: [UInt8](repeating: 1, count: 8 * 4096)))
        let error3 = imageError { _ = try reader.kind(at: 4096) }
        #expect(error3?.kind == .corrupt)
    }

    @Test func aDataFileThatIsTooShortIsAnErrorWhereItEnds() throws {
        var builder = builder()
        builder.clusters = [0: (1 << 63, 0), 1: (4096, 0)]
        let reader = try builder.open(OneFile(content: [UInt8](repeating: 1, count: 5000)))
        #expect(try reader.bytes(0, 5000) == [UInt8](repeating: 1, count: 5000))
        let error4 = imageError { _ = try reader.bytes(5000, 1) }
        #expect(error4?.kind == .corrupt)
    }

    @Test func aDataFileMustBeNamedAndMustNotBeAProtocol() {
        #expect(builder(name: nil).openFailure()?.kind == .missing)
        #expect(builder(name: "json:{}").openFailure()?.kind == .denied)
        let refusal = imageError { _ = try builder(name: "elsewhere").open(OneFile(content: [])) }
        #expect(refusal?.detail == "elsewhere")
    }
}

/// Internal snapshots.
@Suite struct QCOW2SnapshotTests {
    private func entry(
        l1: UInt64, l1Size: UInt32, id: String, name: String, size: UInt64?, extra: Int = 16,
        date: UInt32 = 1_700_000_000
    ) -> [UInt8] {
        let extra = size == nil ? 0 : extra
        var bytes = [UInt8](repeating: 0, count: 40 + extra)
        bytes.put(l1, at: 0)
        bytes.put(l1Size, at: 8)
        bytes.put(UInt16(id.utf8.count), at: 12)
        bytes.put(UInt16(name.utf8.count), at: 14)
        bytes.put(date, at: 16)
        bytes.put(UInt32(extra), at: 36)
        if let size { bytes.put(size, at: 48) }
        bytes += Array(id.utf8) + Array(name.utf8)
        return bytes + [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8)
    }

    @Test func aSnapshotHasItsOwnTablesAndItsOwnSize() throws {
        var builder = QCOW2Builder(size: 1 << 20)
        let old = builder.add([UInt8](repeating: 1, count: 4096))
        let new = builder.add([UInt8](repeating: 2, count: 4096))
        builder.clusters[0] = (new, 0)
        let l1 = builder.addTables([0: (old, 0), 700: (old, 0)], l1Size: 4)
        let second = builder.addTables([1: (old, 0)], l1Size: 1)
        let table =
            entry(l1: l1, l1Size: 4, id: "1", name: "before: \"it\"", size: 3 << 20, extra: 24)
            + entry(l1: second, l1Size: 1, id: "22", name: "", size: nil)
        builder.snapshotsOffset = builder.add(table)
        builder.snapshotCount = 2
        let reader = try builder.open()
        #expect(reader.driver.snapshots.map(\.id) == ["1", "22"])
        #expect(reader.driver.snapshots.map(\.name) == ["before: \"it\"", ""])
        #expect(reader.driver.snapshots.map(\.virtualSize) == [3 << 20, 1 << 20])
        #expect(reader.driver.snapshots[0].date == 1_700_000_000)
        let first = DriverReader(try reader.driver.openSnapshot(0))
        #expect(first.size == 3 << 20)
        #expect(try first.bytes(0, 4096) == [UInt8](repeating: 1, count: 4096))
        #expect(try first.kind(at: 700 * 4096) == "data")
        #expect(try reader.bytes(0, 4096) == [UInt8](repeating: 2, count: 4096))
        #expect(try DriverReader(reader.driver.openSnapshot(1)).kind(at: 4096) == "data")
        let error5 = imageError { _ = try reader.driver.openSnapshot(2) }
        #expect(error5?.kind == .outOfRange)
        try checkFormatDriver(reader.driver)
    }

    @Test func endlessSnapshotNamesAreKeptInPart() throws {
        var builder = QCOW2Builder()
        let l1 = builder.addTables([:], l1Size: 1)
        let table =
            entry(l1: l1, l1Size: 1, id: String(repeating: "i", count: 60_000), name: "", size: 4096)
            + entry(l1: l1, l1Size: 1, id: "2", name: String(repeating: "n", count: 65_535), size: 4096)
        builder.snapshotsOffset = builder.add(table)
        builder.snapshotCount = 2
        let snapshots = try builder.open().driver.snapshots
        #expect(snapshots.map(\.id) == [String(repeating: "i", count: 255), "2"])
        #expect(snapshots.map(\.name) == ["", String(repeating: "n", count: 255)])
    }

    @Test func aDamagedSnapshotIsRefusedAloneAndTheDiskIsRead() throws {
        var builder = QCOW2Builder()
        builder.clusters[0] = (builder.add([UInt8](repeating: 2, count: 4096)), 0)
        let good = builder.addTables([:], l1Size: 1)
        let table =
            entry(l1: good + 8, l1Size: 1, id: "1", name: "unaligned", size: 4096)
            + entry(l1: 1 << 40, l1Size: 1, id: "2", name: "past the end", size: 4096)
            + entry(l1: good, l1Size: 0, id: "3", name: "too small", size: 4096)
            + entry(l1: good, l1Size: .max, id: "4", name: "too large", size: 4096)
            + entry(l1: good, l1Size: 1, id: "5", name: "impossible", size: .max)
            + entry(l1: good, l1Size: 1, id: "6", name: "good", size: 4096)
        builder.snapshotsOffset = builder.add(table)
        builder.snapshotCount = 6
        let reader = try builder.open()
        for index in 0..<5 {
            let refusal = imageError { _ = try reader.driver.openSnapshot(index) }
            #expect(refusal != nil, "\(index)")
        }
        #expect(try reader.driver.openSnapshot(5).shape.virtualSize == 4096)
        #expect(try reader.bytes(0, 4096) == [UInt8](repeating: 2, count: 4096))
    }

    @Test func aTableThatRunsPastTheFileEndsWithARemark() throws {
        var builder = QCOW2Builder()
        var bytes = builder.build()
        builder.snapshotCount = 3
        builder.snapshotsOffset = UInt64(bytes.count)
        bytes = builder.build() + entry(l1: 0x4000, l1Size: 1, id: "1", name: "one", size: 4096)
        let reader = try QCOW2Builder.open(bytes)
        #expect(reader.driver.snapshots.count == 1)
        #expect(reader.driver.shape.remarks.contains { $0.contains("after 1 of 3") })
        builder.snapshotsOffset = 0
        #expect(try builder.open().driver.snapshots.isEmpty)
        #expect(try builder.open().driver.shape.remarks.contains { $0.contains("lies in the header") })
    }

    @Test func tooMuchExtraDataIsRefused() {
        var builder = QCOW2Builder()
        builder.snapshotsOffset = builder.add(entry(l1: 0x2000, l1Size: 1, id: "1", name: "", size: 4096, extra: 1032))
        builder.snapshotCount = 1
        #expect(builder.openFailure()?.kind == .malformed)
    }
}
