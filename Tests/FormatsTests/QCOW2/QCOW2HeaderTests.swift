import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What is checked when a qcow2 image is opened: the header, its limits, features, names and encryption.
@Suite struct QCOW2HeaderTests {
    @Test(arguments: 9...21 as ClosedRange<UInt32>, 0...6 as ClosedRange<UInt32>)
    func everyClusterSizeAndRefcountWidthIsRead(clusterBits: UInt32, refcountOrder: UInt32) throws {
        let cluster = UInt64(1) << UInt64(clusterBits)
        var builder = QCOW2Builder(clusterBits: clusterBits, size: cluster * 5 - 512)
        builder.refcountOrder = refcountOrder
        var random = SeededRandom(seed: UInt64(clusterBits))
        var content = random.bytes(512)
        while content.count < builder.cluster { content += content }
        builder.clusters[1] = (builder.add(content), 0)
        builder.clusters[3] = (1, 0)
        let reader = try builder.open()
        #expect(reader.size == cluster * 5 - 512)
        #expect(reader.driver.shape.allocationUnit == cluster)
        #expect(try firstDifference(reader.bytes(cluster, cluster), content) == nil)
        let kinds = try [0, 1, 2, 3, 4].map { try reader.kind(at: $0 * cluster) }
        #expect(kinds == ["hole", "data", "hole", "zero", "hole"])
        #expect(reader.driver.shape.fact("refcountBits") == .number(1 << UInt64(refcountOrder)))
    }

    struct Poke: Sendable, CustomStringConvertible {
        var description: String
        var offset: Int
        var bytes: [UInt8]
        var kind: ImageError.Kind = .malformed
    }

    static let limits: [Poke] = [
        Poke(description: "magic", offset: 0, bytes: [0x51, 0x46, 0x49, 0xFC]),
        Poke(description: "version 4", offset: 4, bytes: [0, 0, 0, 4], kind: .unsupported),
        Poke(description: "clusters of 256 bytes", offset: 20, bytes: [0, 0, 0, 8]),
        Poke(description: "clusters of 4 MiB", offset: 20, bytes: [0, 0, 0, 22]),
        Poke(description: "a shift of 2^32 - 1", offset: 20, bytes: [255, 255, 255, 255]),
        Poke(description: "a disk of 2^64 - 1", offset: 24, bytes: [UInt8](repeating: 255, count: 8)),
        Poke(description: "a disk of 2^63 - 1", offset: 24, bytes: [0x7F] + [UInt8](repeating: 255, count: 7)),
        Poke(description: "an unknown encryption", offset: 32, bytes: [0, 0, 0, 3], kind: .unsupported),
        Poke(description: "an L1 table above 32 MiB", offset: 36, bytes: [0, 0x40, 0, 1]),
        Poke(description: "an L1 table that is too small", offset: 36, bytes: [0, 0, 0, 0]),
        Poke(description: "an L1 table off a cluster", offset: 40, bytes: [0, 0, 0, 0, 0, 0, 0x20, 8]),
        Poke(description: "an L1 table in the header", offset: 40, bytes: [0, 0, 0, 0, 0, 0, 0, 0], kind: .corrupt),
        Poke(description: "an L1 table past the end", offset: 40, bytes: [0, 0, 0, 1, 0, 0, 0, 0], kind: .corrupt),
        Poke(description: "an L1 table at 2^63", offset: 40, bytes: [0x80, 0, 0, 0, 0, 0, 0, 0]),
        Poke(
            description: "an L1 table whose end overflows", offset: 40,
            bytes: [UInt8](repeating: 255, count: 6) + [0xF0, 0]),
        Poke(description: "a refcount table off a cluster", offset: 48, bytes: [0, 0, 0, 0, 0, 0, 0x10, 8]),
        Poke(description: "a refcount table at 2^63", offset: 48, bytes: [0x80, 0, 0, 0, 0, 0, 0, 0]),
        Poke(description: "no refcount table", offset: 56, bytes: [0, 0, 0, 0]),
        Poke(description: "a refcount table above 8 MiB", offset: 56, bytes: [0, 0, 8, 1]),
        Poke(description: "65537 snapshots", offset: 60, bytes: [0, 1, 0, 1]),
        Poke(description: "snapshots off a cluster, though none", offset: 64, bytes: [0, 0, 0, 0, 0, 0, 0x12, 0x34]),
        Poke(description: "refcounts of 128 bits", offset: 96, bytes: [0, 0, 0, 7]),
        Poke(description: "a header of 96 bytes", offset: 100, bytes: [0, 0, 0, 96]),
        Poke(description: "a header above a cluster", offset: 100, bytes: [0, 0, 0x10, 8]),
        Poke(description: "a header of 2^32 - 1 bytes", offset: 100, bytes: [255, 255, 255, 255]),
        Poke(description: "a compression type without its bit", offset: 104, bytes: [1]),
        Poke(description: "a compression bit without its type", offset: 79, bytes: [8]),
        Poke(description: "an unknown compression type", offset: 104, bytes: [2], kind: .unsupported),
        Poke(description: "subclusters in clusters of 4 KiB", offset: 79, bytes: [16]),
        Poke(description: "a backing name outside the first cluster", offset: 8, bytes: [0, 0, 0, 0, 0, 0, 0x10, 1]),
        Poke(description: "a backing name of 1024 bytes", offset: 8, bytes: [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0]),
        Poke(
            description: "a backing name over the end of its cluster", offset: 8,
            bytes: [0, 0, 0, 0, 0, 0, 0xF, 0xFF, 0, 0, 0, 2]),
        Poke(
            description: "an extension longer than the cluster", offset: 112,
            bytes: [0x12, 0x34, 0x56, 0x78, 0x7F, 255, 255, 255]),
    ]

    @Test(arguments: limits)
    func limitsAreCheckedAtOpen(poke: Poke) throws {
        var bytes = QCOW2Builder().build()
        #expect(throws: Never.self) { try QCOW2Builder.open(bytes) }
        bytes.replaceSubrange(poke.offset..<(poke.offset + poke.bytes.count), with: poke.bytes)
        let error = imageError { _ = try QCOW2Builder.open(bytes) }
        #expect(error?.kind == poke.kind)
    }

    @Test func aHeaderThatIsCutOffIsRefused() {
        let bytes = QCOW2Builder().build()
        for count in [0, 1, 4, 71, 72, 111, 112, 4096, 8191] {
            let error1 = imageError { _ = try QCOW2Builder.open(Array(bytes[..<count])) }
            #expect(error1 != nil, "\(count) bytes")
        }
    }

    @Test func onlyTheMagicNumberAndTheVersionAreRecognised() throws {
        var bytes = QCOW2Builder().build()
        #expect(try QCOW2.recognises(MemoryStorage(bytes)))
        #expect(try !QCOW1.recognises(MemoryStorage(bytes)))
        bytes[7] = 1
        #expect(try !QCOW2.recognises(MemoryStorage(bytes)))
        #expect(try QCOW1.recognises(MemoryStorage(bytes)))
        #expect(try !QCOW2.recognises(MemoryStorage(Array(bytes[..<7]))))
    }

    @Test func theSizeIsKnownFromTheHeaderAlone() throws {
        let watched = CountingStorage(MemoryStorage(QCOW2Builder(size: 12_345 * 512).build()))
        #expect(try QCOW2.virtualSize(of: watched, options: FormatOptions()) == 12_345 * 512)
        #expect(watched.counts.bytes <= 112)
    }

    @Test(arguments: [(1, "AES"), (2, "LUKS")] as [(UInt32, String)])
    func encryptionIsRefusedByName(method: UInt32, name: String) {
        var builder = QCOW2Builder()
        builder.encryption = method
        #expect(builder.openFailure()?.kind == .unsupported)
        #expect(builder.openFailure()?.description.contains(name) == true)
    }

    @Test func unknownIncompatibleFeaturesAreRefusedByTheImagesNamesOrTheirNumbers() {
        var builder = QCOW2Builder()
        builder.incompatible = 1 << 5 | 1 << 63
        let name = Array("warp drive".utf8)
        builder.extensions = [(0x6803_F857, [0, 5] + name + [UInt8](repeating: 0, count: 46 - name.count))]
        #expect(builder.openFailure()?.kind == .unsupported)
        #expect(builder.openFailure()?.detail == "warp drive (bit 5), bit 63")
        let size = imageError {
            _ = try QCOW2.virtualSize(of: MemoryStorage(builder.build()), options: FormatOptions())
        }
        #expect(size?.detail == "warp drive (bit 5), bit 63")
    }

    @Test func unknownCompatibleAndAutoclearFeaturesAndExtensionsAreIgnored() throws {
        var builder = QCOW2Builder()
        builder.compatible = 0xF0
        builder.autoclear = 0xF0
        builder.extensions = [(0x1122_3344, [1, 2, 3]), (0x1122_3344, [])]
        #expect(try builder.open().size == 1 << 20)
    }

    @Test(arguments: [(1, "not closed cleanly"), (2, "corrupt")] as [(UInt64, String)])
    func dirtyAndCorruptImagesAreReadWithARemark(bit: UInt64, words: String) throws {
        var builder = QCOW2Builder()
        #expect(try builder.open().driver.shape.remarks == [])
        builder.incompatible = bit
        let content = [UInt8](repeating: 7, count: builder.cluster)
        builder.clusters[0] = (builder.add(content), 0)
        let reader = try builder.open()
        #expect(reader.driver.shape.remarks.contains { $0.contains(words) })
        #expect(try reader.bytes(0, 4096) == content)
    }

    @Test(
        arguments: [
            ("base.raw", .image, "raw"), ("dir/base:1.qcow2", .image, "qcow2"), ("./a:b", .image, "raw"),
            ("/srv/base.vhd", .host, nil),
        ] as [(String, ParentReference.Path.Base, String?)])
    func theBackingFileIsNamedAsRecorded(name: String, base: ParentReference.Path.Base, format: String?) throws {
        var builder = QCOW2Builder()
        builder.backingName = Array(name.utf8)
        if let format { builder.extensions = [(0xE279_2ACA, Array(format.utf8))] }
        let parent = try #require(builder.open().driver.parent)
        #expect(parent.paths == [ParentReference.Path(base: base, text: name)])
        #expect(parent.format == format)
    }

    @Test func aBackingNameThatIsNoTextIsShownAndNotFollowed() throws {
        var builder = QCOW2Builder()
        for (bytes, text, word) in [
            ([0x61, 0, 0x62], "a\u{FFFD}b", "zero byte"), ([0x70, 0xE9, 0x2E], "p\u{FFFD}.", "not UTF-8"),
        ] as [([UInt8], String, String)] {
            builder.backingName = bytes
            let parent = try #require(try builder.open().driver.parent)
            #expect(parent.recorded == [text] && parent.paths.count == 1)
            #expect(parent.paths[0].base == .elsewhere && parent.paths[0].text == text)
            #expect(parent.paths[0].refusal?.contains(word) == true, "\(parent.paths)")
        }
        builder.backingName = [0x61, 0, 0]
        #expect(try builder.open().driver.parent?.paths.first?.text == "a")
        builder.backingName = []
        #expect(try builder.open().driver.parent == nil)
    }

    @Test func aBackingFormatThatCannotBeReadIsForTheParentToRefuse() throws {
        var builder = QCOW2Builder()
        builder.backingName = Array("base".utf8)
        builder.extensions = [(0xE279_2ACA, Array("vmdk".utf8))]
        #expect(try builder.open().driver.parent?.format == "vmdk")
    }

    @Test func anExtensionThatOccursTwiceIsRefused() {
        var builder = QCOW2Builder()
        builder.backingName = Array("base".utf8)
        builder.extensions = [(0xE279_2ACA, Array("raw".utf8)), (0xE279_2ACA, Array("qcow2".utf8))]
        #expect(builder.openFailure()?.kind == .malformed)
    }

    @Test func bitmapsCountWhileTheAutoclearBitVouchesForThem() throws {
        var builder = QCOW2Builder()
        var data = [UInt8](repeating: 0, count: 24)
        data.put(UInt32(3), at: 0)
        data.put(UInt64(64), at: 8)
        data.put(UInt64(4096), at: 16)
        builder.extensions = [(0x2385_2875, data)]
        #expect(try builder.open().driver.shape.fact("bitmaps") == .number(0))
        builder.autoclear = 1
        #expect(try builder.open().driver.shape.fact("bitmaps") == .number(3))
        data.put(UInt32(65536), at: 0)
        builder.extensions = [(0x2385_2875, data)]
        #expect(builder.openFailure()?.kind == .malformed)
    }
}
