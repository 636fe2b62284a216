import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What platter does not know of an image is what it was after a session that wrote to it.
@Suite struct UnknownPartsTests {
    private static let mib: UInt64 = 1 << 20

    @Test func unknownRegionsAndMetadataOfAVHDXSurvive() throws {
        var builder = VHDXBuilder(size: 6 * Self.mib)
        let unknown = "DEADBEEF-0001-0002-0003-000000000004"
        builder.items.append(.init(guid: unknown, bytes: [1, 2, 3], flags: 0))
        builder.items.append(.init(guid: unknown, bytes: [4, 5, 6, 7], flags: 1))
        builder.items.append(.init(guid: "DEADBEEF-0001-0002-0003-000000000005", bytes: [8], flags: 2))
        let region = builder.nextFree
        builder.nextFree += Self.mib
        builder.regions.append(.init(guid: unknown, offset: region, length: Self.mib, isRequired: false))
        let built = builder.build()
        built.patch([UInt8](repeating: 0x77, count: Int(Self.mib)), at: region)
        // Behind the last entry of the table and the last item, and reserved space between the structures.
        built.patch([0x61, 0x62], at: builder.tableOffset + 4096)
        built.patch([0x63], at: builder.metadataOffset + Self.mib - 1)
        built.patch([0x64], at: 320 << 10)
        built.patch([0x65], at: (64 << 10) + 8192)
        let storage = try VHDXCrashStorage(copying: built)
        let before = storage.content
        let disk = try VHDXMiniDisk(storage)
        for block in 0..<6 as Range<UInt64> { try disk.write(block * Self.mib, [9]) }
        try disk.commit()
        try disk.zero(ByteRange(0, to: Self.mib))
        try disk.close()
        let kept: [Range<UInt64>] = [
            0..<(64 << 10), (68 << 10)..<(128 << 10), (132 << 10)..<Self.mib,
            builder.metadataOffset..<(builder.metadataOffset + Self.mib),
            (builder.tableOffset + 4096)..<(builder.tableOffset + Self.mib), region..<(region + Self.mib),
        ]
        let old = VHDXCrashStorage(before)
        for range in kept {
            let count = Int(range.upperBound - range.lowerBound)
            let was = try old.bytes(at: HostOffset(range.lowerBound), count: count)
            let now = try storage.bytes(at: HostOffset(range.lowerBound), count: count)
            #expect(firstDifference(was, now) == nil, "in \(range)")
        }
        _ = try VHDXMiniDisk.check(
            try VHDXBuilder.open(VHDXCrashStorage(storage.content, isWritable: false)), disk.model, isExact: true)
    }

    /// Reserved bytes of the footer and of the header, the creator, what lies behind the table, and locators of codes that
    /// nobody knows: all of it below the first block, and the footer wherever the end moves to.
    @Test func unknownPartsOfAVHDSurvive() throws {
        var builder = VHDBuilder(size: 40 * 4096)
        builder.creator = "odd!"
        builder.afterTable = [UInt8](repeating: 0x42, count: 512)
        builder.locators = [.init(code: "What", text: Array("somewhere".utf8))]
        builder.addBlock(3, [UInt8](repeating: 1, count: 4096))
        var bytes = builder.bytes()
        var footer = Array(bytes.suffix(512))
        footer.replaceSubrange(100..<104, with: [1, 2, 3, 4])
        footer[511] = 0x5A
        footer = VHDBuilder.summed(footer, at: 64)
        bytes.replaceSubrange(0..<512, with: footer)
        bytes.replaceSubrange((bytes.count - 512)..<bytes.count, with: footer)
        var header = Array(bytes[512..<1536])
        header.replaceSubrange(800..<804, with: [5, 6, 7, 8])
        bytes.replaceSubrange(512..<1536, with: VHDBuilder.summed(header, at: 36))
        let file = VHDScratch(bytes)
        var writer = try VHDWriter(file)
        try writer.write([UInt8](repeating: 7, count: 30_000), at: 100)
        try writer.zero(ByteRange(3 * 4096, to: 4 * 4096))
        try writer.finish()
        try writer.verify(fresh: true)
        let tableEnd = VHDBuilder.tableOffset + 512
        #expect(file.bytes[..<VHDBuilder.tableOffset] == bytes[..<VHDBuilder.tableOffset])
        #expect(file.bytes[tableEnd..<(tableEnd + 1024)] == bytes[tableEnd..<(tableEnd + 1024)])
        #expect(Array(file.bytes.suffix(512)) == footer)
        #expect(file.size != UInt64(bytes.count))
    }
}
