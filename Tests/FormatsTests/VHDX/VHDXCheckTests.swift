import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What a check says about images: those of other software, and clean ones with one damage each, made by hand.
@Suite struct VHDXCheckTests {
    /// One damage and what the check has to say about it.
    struct Damage: CustomTestStringConvertible, Sendable {
        var severity: CheckReport.Severity
        var says: String
        /// Whether the damage lies in a disk without a parent.
        var isPlain = false
        var change: @Sendable (inout VHDXBuilder) -> Void = { _ in }
        var patch: @Sendable (SparseMemoryStorage, VHDXBuilder) -> Void = { _, _ in }
        var testDescription: String { says }
    }

    private static let mib = VHDXBuilder.mib

    static func check(_ storage: any Storage, repairs: Bool = false) throws -> CheckReport {
        try VHDX.check(
            OpenRequest(storage: storage, companions: NoCompanions(), isWritable: repairs), repairs: repairs)
    }

    /// A disk of two chunks with a block in each; a differencing one has a partial block as well. Its file is 8 or 6 MiB
    /// of structures and blocks without a gap.
    static func clean(isPlain: Bool = false) -> VHDXBuilder {
        let locator = [("parent_linkage", "{\(VHDXBuilder.dataGUID)}"), ("relative_path", ".\\base.vhdx")]
        var builder = VHDXBuilder(size: 5 << 30, locator: isPlain ? nil : locator)
        builder.add(0, [1])
        builder.add(4100, [2])
        if !isPlain {
            builder.add(1, state: 7, [3])
            builder.addBitmap(chunk: 0, [0, 0, 0, 1])
        }
        return builder
    }

    // MARK: - Images of other software

    @Test(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"), arguments: readable)
    func imagesOfOtherSoftwareAreClean(_ image: SharedImage) throws {
        let report = try Self.check(try FileStorage(path: try image.path()))
        #expect(report.corruptions == 0, "\(report.findings)")
        #expect(report.leaks == 0, "\(report.findings)")
        #expect(report.imageEnd > 0)
    }

    /// Those that were damaged on purpose and can still be read have names of their own.
    private static let readable = SharedImages.images(.equal).filter {
        $0.format == "vhdx" && !$0.name.hasPrefix("m-")
    }

    @Test(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"), arguments: damaged)
    func damagedImagesAreFoundOut(_ image: SharedImage) throws {
        do {
            let report = try Self.check(try FileStorage(path: try image.path()))
            #expect(report.corruptions > 0, "\(report.findings)")
        } catch let error as ImageError {
            #expect(error.kind == .unsupported || error.kind == .malformed, "\(error)")
        }
    }

    private static let damaged = (SharedImages.images(.refuse) + SharedImages.images(.error)).filter {
        $0.format == "vhdx" && !$0.isBundle
    }

    // MARK: - One damage each

    @Test(arguments: [true, false])
    func theUndamagedImageIsClean(isPlain: Bool) throws {
        let builder = Self.clean(isPlain: isPlain)
        let report = try Self.check(builder.build())
        #expect(report.findings.isEmpty, "\(report.findings)")
        #expect(report.allocatedBytes == (isPlain ? 2 : 3) << 20)
        #expect(report.imageEnd == builder.nextFree)
    }

    @Test(arguments: headerDamages + regionDamages + metadataDamages + logDamages + blockDamages)
    func eachDamageIsFound(_ damage: Damage) throws {
        var builder = Self.clean(isPlain: damage.isPlain)
        damage.change(&builder)
        let storage = builder.build()
        damage.patch(storage, builder)
        let report = try Self.check(storage)
        let hits = report.findings.filter { $0.severity == damage.severity && Self.text($0).contains(damage.says) }
        #expect(hits.count == 1, "\(report.findings)")
        #expect(report.corruptions == (damage.severity == .corruption ? 1 : 0), "\(report.findings)")
        #expect((report.leaks > 0) == (damage.severity == .leak), "\(report.findings)")
    }

    /// What a finding says of its first place: "header 1: a header is damaged: …".
    private static func text(_ finding: CheckReport.Finding) -> String {
        [finding.places.first?.entry, finding.what, finding.places.first?.detail].compactMap { $0 }
            .joined(separator: ": ")
    }

    private static func reseal(_ storage: SparseMemoryStorage, _ bytes: [UInt8], at place: UInt64) {
        storage.patch(VHDXBuilder.sealed(bytes), at: place)
    }

    private static let headerDamages: [Damage] = [
        Damage(
            severity: .corruption, says: "header 1: a header is damaged",
            patch: { file, _ in file.patch([1], at: 65_636) }),
        Damage(
            severity: .corruption, says: "header 2: a header is damaged",
            patch: { file, _ in file.patch([1], at: 131_172) }),
        Damage(
            severity: .corruption, says: "both headers are damaged",
            patch: { file, _ in
                file.patch([1], at: 65_636)
                file.patch([1], at: 131_172)
            }),
        Damage(
            severity: .corruption, says: "both headers claim to be current",
            patch: { file, builder in file.patch(builder.header(sequence: 8, logOffset: 9 << 20), at: 64 << 10) }),
        Damage(
            severity: .note, says: "header 2: a header has reserved bytes set",
            patch: { file, builder in
                for (sequence, place) in [(7, 64 << 10), (8, 128 << 10)] as [(UInt64, UInt64)] {
                    var bytes = builder.header(sequence: sequence)
                    if sequence == 8 { bytes[4000] = 1 }
                    // The older copy differs then too.
                    reseal(file, bytes, at: place)
                }
            }),
        Damage(
            severity: .corruption, says: "the log does not lie on MiB boundaries",
            patch: { file, builder in file.patch(builder.header(sequence: 9, logOffset: 1000), at: 64 << 10) }),
        Damage(
            severity: .corruption, says: "the file ends within its log",
            patch: { file, builder in
                file.patch(builder.header(sequence: 9, logOffset: 1 << 30), at: 64 << 10)
                file.patch(builder.header(sequence: 10, logOffset: 1 << 30), at: 128 << 10)
                file.patch([0], at: builder.nextFree - 1)
            }),
        Damage(severity: .note, says: "has no log", change: { $0.logLength = 0 }, patch: { _, _ in }),
    ]

    private static let regionDamages: [Damage] = [
        Damage(
            severity: .corruption, says: "region table 1: a region table is damaged",
            patch: { file, _ in file.patch([1], at: 200_000) }
        ),
        Damage(
            severity: .corruption, says: "region table 2: a region table is damaged",
            patch: { file, _ in file.patch([1], at: 270_000) }
        ),
        Damage(
            severity: .corruption, says: "both region tables are damaged",
            patch: { file, _ in
                file.patch([1], at: 200_000)
                file.patch([1], at: 270_000)
            }),
        Damage(
            severity: .corruption, says: "the two region tables are not equal",
            patch: { file, builder in
                var other = builder
                other.regions[0].length += 1 << 20
                file.patch(other.regionTable(), at: 256 << 10)
            }),
        Damage(
            severity: .note, says: "the region table has reserved bits",
            patch: { file, builder in
                var bytes = builder.regionTable()
                bytes[12] = 1
                for place in [192 << 10, 256 << 10] as [UInt64] { reseal(file, bytes, at: place) }
            }),
        Damage(
            severity: .note, says: "regions that platter does not know",
            change: {
                $0.regions.append(
                    .init(guid: VHDXBuilder.logGUID, offset: $0.nextFree, length: mib, isRequired: false))
            }, patch: { file, builder in file.patch([1], at: builder.nextFree + mib - 1) }),
        Damage(
            severity: .corruption, says: "the file ends within a region: another region",
            change: {
                $0.regions.append(.init(guid: VHDXBuilder.logGUID, offset: 1 << 40, length: mib, isRequired: false))
            }),
        Damage(
            severity: .corruption, says: "two parts of the file overlap",
            change: {
                $0.regions.append(
                    .init(guid: VHDXBuilder.logGUID, offset: $0.tableOffset, length: mib, isRequired: false))
            }),
        Damage(severity: .corruption, says: "names a region twice", change: { $0.regions.append($0.regions[0]) }),
        Damage(severity: .corruption, says: "does not lie on MiB", change: { $0.regions[1].offset += 512 }),
        Damage(severity: .corruption, says: "names no block alloc", change: { $0.regions.removeFirst() }),
        Damage(severity: .corruption, says: "names no metadata", change: { $0.regions.removeLast() }),
        Damage(
            severity: .corruption, says: "allocation table is too small",
            change: {
                $0.virtualSize = 64 << 40
                $0.items[1].bytes = VHDXBuilder.little(UInt64(64 << 40))
            }),
    ]

    private static let metadataDamages: [Damage] = [
        Damage(
            severity: .corruption, says: "the metadata table has no signature",
            patch: { file, builder in file.patch([0], at: builder.metadataOffset) }),
        Damage(
            severity: .note, says: "the metadata table has reserved bits set",
            patch: { file, builder in file.patch([1], at: builder.metadataOffset + 20) }),
        Damage(severity: .corruption, says: "lacks a required item", change: { $0.items.remove(at: 2) }),
        Damage(severity: .corruption, says: "names an item twice", change: { $0.items.append($0.items[1]) }),
        Damage(severity: .corruption, says: "two metadata items overlap", change: { $0.items[2].offset = 64 << 10 }),
        Damage(severity: .corruption, says: "lies outside the metadata", change: { $0.items[2].offset = 1000 }),
        Damage(
            severity: .note, says: "virtual disk ID: a metadata item has unusual flags",
            change: { $0.items[2].flags = 2 }),
        Damage(
            severity: .note, says: "virtual disk ID: a metadata item has an unusual length",
            change: { $0.items[2].bytes += [0, 0] }),
        Damage(
            severity: .note, says: "metadata items that platter does not know",
            change: { $0.items.append(.init(guid: VHDXBuilder.logGUID, bytes: [1], flags: 0)) }),
        Damage(
            severity: .corruption, says: "the block size is not",
            change: { $0.items[0].bytes.replaceSubrange(0..<4, with: VHDXBuilder.little(UInt32(3 << 20))) }),
        Damage(
            severity: .note, says: "file parameters have reserved bits",
            change: { $0.items[0].bytes[4] |= 8 }),
        Damage(severity: .note, says: "is marked as fixed", change: { $0.items[0].bytes[4] |= 1 }),
        Damage(
            severity: .corruption, says: "not a multiple of its sectors",
            change: { $0.items[1].bytes = VHDXBuilder.little(UInt64(1000)) }),
        Damage(
            severity: .corruption, says: "logical sector size is neither",
            change: { $0.items[3].bytes = VHDXBuilder.little(UInt32(1024)) }),
        Damage(
            severity: .note, says: "physical sectors of the disk are smaller", isPlain: true,
            change: {
                $0 = VHDXBuilder(size: 1 << 30, sectorSize: 4096)
                $0.items[4].bytes = VHDXBuilder.little(UInt32(512))
            }),
        Damage(
            severity: .corruption, says: "no parent locator", change: { $0.items.removeLast() }),
        Damage(
            severity: .corruption, says: "does not say how to recognise the parent",
            change: { $0.items[5].bytes = VHDXBuilder.locator([("relative_path", "a")]) }),
        Damage(
            severity: .corruption, says: "has no path to the parent",
            change: { $0.items[5].bytes = VHDXBuilder.locator([("parent_linkage", "{\(VHDXBuilder.dataGUID)}")]) }),
        Damage(
            severity: .corruption, says: "a linkage that is no GUID",
            change: { $0.items[5].bytes = VHDXBuilder.locator([("relative_path", "a"), ("parent_linkage", "{1}")]) }),
        Damage(
            severity: .note, says: "the image accepts two parents",
            change: {
                $0.items[5].bytes = VHDXBuilder.locator([
                    ("relative_path", "a"), ("parent_linkage", "{\(VHDXBuilder.dataGUID)}"),
                    ("parent_linkage2", "{\(VHDXBuilder.logGUID)}"),
                ])
            }),
        Damage(
            severity: .note, says: "but is not a differencing disk", isPlain: true,
            change: {
                let bytes = VHDXBuilder.locator([("relative_path", "a")])
                $0.items.append(.init(guid: VHDXBuilder.parentLocator, bytes: bytes, flags: 4))
            }),
    ]

    private static let logDamages: [Damage] = [
        Damage(
            severity: .corruption, says: "the log is in use but holds no valid sequence",
            change: { $0.logGUID = VHDXBuilder.logGUID }),
        Damage(
            severity: .note, says: "counts them in: 1 change",
            change: {
                let log = VHDXLogBuilder(&$0)
                let page = [UInt8](repeating: 0, count: 4096)
                log.put([.page($0.metadataOffset + (512 << 10), page)], at: 0, sequence: 1, tail: 0)
            }),
        Damage(
            severity: .corruption, says: "shorter than its log says",
            change: { VHDXLogBuilder(&$0).put([], at: 0, sequence: 1, tail: 0, flushed: 1 << 40) }),
        Damage(
            severity: .note, says: "shorter than its structures need",
            change: {
                $0.regions.append(
                    .init(guid: VHDXBuilder.dataGUID, offset: $0.nextFree, length: mib, isRequired: false))
                VHDXLogBuilder(&$0).put([], at: 0, sequence: 1, tail: 0, last: $0.nextFree + mib)
            }),
    ]

    /// The entry of block 2, which is not present, with this word.
    private static func entry(_ word: UInt64, block: UInt64 = 2) -> @Sendable (inout VHDXBuilder) -> Void {
        { $0.entries[$0.tableIndex(block)] = word }
    }

    private static let blockDamages: [Damage] = [
        Damage(severity: .corruption, says: "a block's entry has a reserved state", change: entry(4)),
        Damage(severity: .corruption, says: "a block's entry has a reserved", isPlain: true, change: entry(5 | mib)),
        Damage(severity: .corruption, says: "reserved bits set", change: entry(1 << 3)),
        Damage(severity: .corruption, says: "reserved bits", change: entry(1 << 19)),
        Damage(severity: .corruption, says: "within the header section", change: entry(6)),
        Damage(severity: .corruption, says: "overlaps the log", change: entry(mib | 6)),
        Damage(severity: .corruption, says: "overlaps the metadata", change: entry(2 * mib | 6)),
        Damage(severity: .corruption, says: "overlaps the block allocation", change: entry(3 * mib | 6)),
        Damage(severity: .corruption, says: "past the end of the file", change: entry(1 << 40 | 6)),
        Damage(severity: .corruption, says: "past the end", isPlain: true, change: entry(.max << 20 | 6)),
        Damage(severity: .corruption, says: "past the end of", change: entry(1 << 40 | 3)),
        Damage(
            severity: .corruption, says: "shares space of the file with another block",
            change: { $0.entries[2] = ($0.entries[0] ?? 0) }),
        Damage(
            severity: .corruption, says: "shares space of the file with", isPlain: true,
            change: { $0.entries[2] = ($0.entries[0] ?? 0) & ~7 | 1 }),
        Damage(
            severity: .corruption, says: "its sector bitmap is not present",
            change: { $0.add(4101, state: 7, [4]) }),
        Damage(
            severity: .corruption, says: "partially present in a disk without a parent", isPlain: true,
            change: { $0.add(2, state: 7, [4]) }),
        Damage(severity: .note, says: "BAT entry 2: a zero block has a place", change: entry(mib | 2)),
        Damage(severity: .note, says: "BAT entry 2: an entry that is not present has a place", change: entry(mib)),
        Damage(
            severity: .corruption, says: "a sector bitmap's entry has a reserved state",
            change: { $0.entries[$0.ratio * 2 + 1] = 5 }),
        Damage(
            severity: .corruption, says: "past the end of th", change: { $0.entries[$0.ratio * 2 + 1] = 1 << 40 | 6 }),
        Damage(
            severity: .note, says: "a sector bitmap is recorded", isPlain: true,
            change: { $0.addBitmap(chunk: 0, [1]) }),
        Damage(
            severity: .leak, says: "space of the file belongs to nothing: 1 MiB",
            change: {
                $0.add(3, [9])
                $0.entries[3] = nil
                $0.add(2, [5])
            }),
        Damage(
            severity: .note, says: "takes none on the host: 1 MiB",
            change: {
                $0.nextFree += mib
                $0.add(2, [5])
            }),
        Damage(
            severity: .leak, says: "space at the end of the file belongs to nothing: 2 MiB",
            patch: { file, builder in file.patch([0], at: builder.nextFree + mib) }),
    ]

    @Test func entriesThatNobodyReadsAreNoMatter() throws {
        var builder = Self.clean()
        Self.entry(6 | Self.mib, block: 8000)(&builder)
        #expect(try Self.check(builder.build()).findings.isEmpty)
    }

    @Test func aFixedDiskMayLackBlocks() throws {
        // QEMU makes all of them so.
        var builder = VHDXBuilder(size: 3 << 20, isFixed: true)
        builder.add(0, [1])
        builder.add(2, [1])
        let report = try Self.check(builder.build())
        #expect(report.findings.isEmpty)
        #expect(report.corruptions == 0)
    }

    @Test func fileOfOddSizeIsANoteAndItsLastBlockMayBeShort() throws {
        var builder = VHDXBuilder(size: mibs(1) + 512)
        builder.add(0, [1])
        let end = builder.nextFree
        builder.entries[1] = end | 6
        let storage = builder.build()
        storage.patch([1], at: end + 511)
        let report = try Self.check(storage)
        #expect(report.corruptions == 0 && report.leaks == 0, "\(report.findings)")
        #expect(report.findings.count == 2)
    }

    private func mibs(_ count: UInt64) -> UInt64 { count << 20 }

    // MARK: - Errors

    @Test func whatIsNoImageOrNeedsMoreIsAnError() throws {
        func kind(_ storage: any Storage) -> ImageError.Kind? {
            do { _ = try Self.check(storage) } catch { return (error as? ImageError)?.kind }
            return nil
        }
        #expect(kind(SparseMemoryStorage(size: 1 << 30)) == .malformed)
        var region = Self.clean()
        region.regions.append(.init(guid: VHDXBuilder.logGUID, offset: 1 << 30, length: Self.mib))
        #expect(kind(region.build()) == .unsupported)
        var item = Self.clean()
        item.items.append(.init(guid: VHDXBuilder.logGUID, bytes: [1], flags: 4))
        #expect(kind(item.build()) == .unsupported)
        let huge = Self.clean().build()
        huge.patch([1], at: 1 << 50)
        #expect(kind(huge) == .unsupported)
    }
}
