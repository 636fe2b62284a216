import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The first qcow format, on images made here.
@Suite struct QCOW1Tests {
    /// A header with clusters of 4 KiB, L2 tables of 512 entries, a disk of 4 MiB, and the L1 table at 48.
    private func header(_ size: UInt64 = 4 << 20) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 4096)
        bytes.put(UInt32(0x5146_49FB), at: 0)
        bytes.put(UInt32(1), at: 4)
        bytes.put(size, at: 24)
        bytes[32] = 12
        bytes[33] = 9
        bytes.put(UInt64(48), at: 40)
        return bytes
    }

    private func open(_ bytes: [UInt8]) throws -> DriverReader {
        DriverReader(try QCOW1.open(OpenRequest(storage: MemoryStorage(bytes), companions: NoCompanions())))
    }

    /// The second L1 entry has a table at 4096: entry 0 data at 8192, entry 1 compressed at the odd byte 12,301.
    private func image() -> [UInt8] {
        var bytes = header()
        bytes.put(UInt64(4096), at: 56)
        bytes += [UInt8](repeating: 0, count: 4096) + [UInt8](repeating: 4, count: 4096)
        bytes += [UInt8](repeating: 0xEE, count: 13) + Streams.deflated
        bytes.put(UInt64(8192), at: 4096)
        bytes.put(1 << 63 | UInt64(Streams.deflated.count) << 51 | 12301, at: 4104)
        return bytes
    }

    @Test func plainCompressedAndUnallocatedClusters() throws {
        let reader = try open(image())
        #expect(reader.size == 4 << 20)
        #expect(reader.driver.shape.formatName == "qcow")
        let runs = try reader.runs(ByteRange(0, to: 2 << 20))
        #expect(runs.count == 1 && runs[0].length == 2 << 20)
        #expect(try reader.bytes(2 << 20, 4096) == [UInt8](repeating: 4, count: 4096))
        #expect(try reader.bytes((2 << 20) + 4096, 4096) == Streams.halves)
        #expect(try reader.kind(at: (2 << 20) + 8192) == "hole")
        try checkFormatDriver(reader.driver)
    }

    @Test(
        arguments: [
            ("unaligned", 8200), ("past the end", 1 << 40), ("compressed past the end", 1 << 63 | 1 << 51 | 1 << 40),
            ("compressed without a length", 1 << 63 | 8192), ("all ones", .max),
            ("compressed in the header", 1 << 63 | 9 << 51),
        ] as [(String, UInt64)])
    func aWrongL2EntryIsAnErrorForItsClusterAlone(name: String, entry: UInt64) throws {
        var bytes = image()
        bytes.put(entry, at: 4112)
        let reader = try open(bytes)
        let error = imageError { _ = try reader.bytes((2 << 20) + 8192, 1) }
        #expect(error?.kind == .corrupt)
        #expect(try reader.bytes(2 << 20, 4096) == [UInt8](repeating: 4, count: 4096))
    }

    @Test(arguments: [1, 47, 1 << 40, .max] as [UInt64])
    func aWrongL1EntryIsAnErrorForItsTableAlone(entry: UInt64) throws {
        var bytes = image()
        bytes.put(entry, at: 48)
        let reader = try open(bytes)
        let error = imageError { _ = try reader.bytes(0, 1) }
        #expect(error?.kind == .corrupt)
        #expect(try reader.bytes(2 << 20, 4096) == [UInt8](repeating: 4, count: 4096))
    }

    @Test(
        arguments: [
            (32, [8]), (32, [17]), (32, [255]), (33, [5]), (33, [14]), (24, [UInt8](repeating: 255, count: 8)),
            (40, [0, 0, 0, 0, 0, 0, 0, 8]), (40, [0, 0, 0, 1, 0, 0, 0, 0]), (40, [UInt8](repeating: 255, count: 8)),
            (36, [0, 0, 0, 1]), (36, [0, 0, 0, 9]), (8, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5]),
            (8, [0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 4, 0]), (4, [0, 0, 0, 0]),
        ] as [(Int, [UInt8])])
    func wrongHeadersAreRefused(offset: Int, poke: [UInt8]) throws {
        var bytes = image()
        #expect(throws: Never.self) { try open(bytes) }
        bytes.replaceSubrange(offset..<(offset + poke.count), with: poke)
        let kind = imageError { _ = try open(bytes) }?.kind
        #expect(kind == .malformed || kind == .corrupt || (kind == .unsupported && offset == 36))
    }

    @Test func theBackingFileIsNamedWithoutAFormat() throws {
        var bytes = image()
        bytes.put(UInt64(128), at: 8)
        bytes.put(UInt32(4), at: 16)
        bytes.replaceSubrange(128..<132, with: Array("base".utf8))
        let parent = try #require(open(bytes).driver.parent)
        #expect(parent.paths == [ParentReference.Path(base: .image, text: "base")])
        #expect(parent.format == nil)
        bytes.replaceSubrange(128..<132, with: Array("nb:x".utf8))
        #expect(try open(bytes).driver.parent?.paths == [ParentReference.Path(base: .elsewhere, text: "nb:x")])
        bytes.replaceSubrange(128..<132, with: [0x70, 0xE9, 0x2E, 0x71])
        let odd = try #require(open(bytes).driver.parent)
        #expect(odd.paths.count == 1 && odd.paths[0].base == .elsewhere && odd.paths[0].refusal == "it is not UTF-8")
        #expect(odd.recorded == ["p\u{FFFD}.q"])
    }
}
