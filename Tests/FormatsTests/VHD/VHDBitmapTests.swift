import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Dynamic images whose blocks hold data that their sector bitmaps call absent: zeros by the specification, and data to
/// Windows and QEMU.
struct VHDBitmapTests {
    private static let size = 40_960
    private static let ignoring = FormatOptions(vhdBitmap: .ignore, cacheBytes: 256 << 10)

    /// Ten blocks of 4096 bytes, of which block 0 and 6 hold data without a bit, block 3 with all, block 5 with two.
    private func image(type: UInt32 = 3) -> [UInt8] {
        var builder = VHDBuilder(size: UInt64(Self.size))
        builder.type = type
        if type == 4 { builder.parentName = VHDBuilder.utf16BE("parent.vhd") }
        builder.addBlock(0, data(0), written: [])
        builder.addBlock(3, data(3))
        builder.addBlock(5, data(5), written: [1, 2])
        builder.addBlock(6, data(6), written: [])
        return builder.bytes()
    }

    private func data(_ block: Int) -> [UInt8] { (0..<4096).map { UInt8($0 / 512 + 1) &+ UInt8(block * 16) } }

    /// What is read by the bits, or by what lies in the file.
    private func disk(byBits: Bool) -> [UInt8] {
        var disk = [UInt8](repeating: 0, count: Self.size)
        for block in [0, 3, 5, 6] {
            for sector in 0..<8 where !byBits || block == 3 || (block == 5 && (1...2).contains(sector)) {
                let start = sector * 512
                disk.replaceSubrange(
                    (block * 4096 + start)..<(block * 4096 + start + 512), with: data(block)[start..<(start + 512)])
            }
        }
        return disk
    }

    private func read(_ bytes: [UInt8], _ options: FormatOptions = FormatOptions()) throws -> [UInt8] {
        try Asking.read([Asking.open(bytes, options: options)], ByteRange(0, to: UInt64(Self.size)))
    }

    // MARK: - Reading

    @Test func bitsDecideUnlessToldOtherwise() throws {
        #expect(try firstDifference(read(image()), disk(byBits: true)) == nil)
        #expect(try firstDifference(read(image(), Self.ignoring), disk(byBits: false)) == nil)
    }

    @Test func driversKeepTheContract() throws {
        try checkFormatDriver(Asking.open(image(), options: Self.ignoring))
    }

    @Test func inAChildBitsAlwaysChooseBetweenItAndItsParent() throws {
        let child = try Asking.open(image(type: 4), options: Self.ignoring)
        var runs = ExtentList(for: ByteRange(0, to: 4096))
        try child.map(.placement, into: &runs)
        #expect(runs.count == 1)
        guard case .hole = runs[0].place else {
            Issue.record("a sector of the parent is taken from the child")
            return
        }
    }

    @Test func aDiskThatBeginsWithSuchDataIsWorthARemark() throws {
        let remarks = try Asking.open(image()).shape.remarks
        #expect(remarks.contains { $0.contains("-o vhd-bitmap=ignore") })
        #expect(try Asking.open(image(), options: Self.ignoring).shape.remarks.isEmpty)
        var sound = VHDBuilder(size: UInt64(Self.size))
        // What XenServer leaves in a new block on a volume: old bytes behind what was written.
        sound.addBlock(0, data(0), written: [0])
        #expect(try Asking.open(sound.bytes()).shape.remarks.isEmpty)
    }

    // MARK: - Checking

    @Test func suchBlocksAreNotedAndCounted() throws {
        let report = try Asking.check(image())
        #expect(report.corruptions == 0 && report.leaks == 0)
        let found = try #require(report.findings.first { $0.what.contains("its bitmap calls absent") })
        #expect(report.findings.count == 1 && found.severity == .note && found.count == 3)
        #expect(found.places.map(\.entry) == ["BAT entry 0", "BAT entry 5", "BAT entry 6"])
        var sound = VHDBuilder(size: UInt64(Self.size))
        sound.addBlock(3, data(3))
        sound.addBlock(5, data(5).enumerated().map { $0.offset < 512 ? $0.element : 0 }, written: [0])
        #expect(try Asking.check(sound.bytes()).findings.isEmpty)
    }

    // MARK: - Writing

    /// What is written is there for who goes by the bits and for who does not, and nothing else changes for either.
    @Test(arguments: [FormatOptions.VHDBitmap.honour, .ignore])
    func whatIsWrittenIsThereForBothSortsOfReaders(_ bitmap: FormatOptions.VHDBitmap) throws {
        let file = VHDScratch(image())
        let options = FormatOptions(vhdBitmap: bitmap, cacheBytes: 256 << 10)
        var writer = try VHDWriter(file, options: options)
        // A part of a sector without a bit, one across a sector with and one without, whole ones, and one in a new block.
        let writes = [(100, 50), (5 * 4096 + 1000, 600), (6 * 4096 + 512, 1024), (8 * 4096 + 7, 9)]
        var byBits = disk(byBits: true)
        var byData = disk(byBits: false)
        for (offset, count) in writes {
            let bytes = [UInt8](repeating: 0xEE, count: count)
            try writer.write(bytes, at: UInt64(offset))
            // The rest of a sector without a bit becomes what this session reads there.
            let sectors = (offset / 512 * 512)..<((offset + count + 511) / 512 * 512)
            if bitmap == .ignore {
                byBits.replaceSubrange(sectors, with: byData[sectors])
            } else {
                byData.replaceSubrange(sectors, with: byBits[sectors])
            }
            byBits.replaceSubrange(offset..<(offset + count), with: bytes)
            byData.replaceSubrange(offset..<(offset + count), with: bytes)
        }
        try writer.verify()
        try writer.finish()
        #expect(try firstDifference(read(file.bytes), byBits) == nil)
        #expect(try firstDifference(read(file.bytes, Self.ignoring), byData) == nil)
    }

    @Test func zerosAreZerosForBothSortsOfReaders() throws {
        let file = VHDScratch(image())
        var writer = try VHDWriter(file, options: Self.ignoring)
        try writer.zero(ByteRange(100, to: 5000))
        try writer.zero(ByteRange(5 * 4096, to: 7 * 4096 - 100))
        try writer.verify()
        try writer.finish()
        var byData = disk(byBits: false)
        for range in [100..<5000, (5 * 4096)..<(7 * 4096 - 100)] {
            byData.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
        }
        #expect(try firstDifference(read(file.bytes, Self.ignoring), byData) == nil)
        let byBits = try read(file.bytes)
        for range in [100..<5000, (5 * 4096)..<(7 * 4096 - 100)] { #expect(byBits[range].allSatisfy { $0 == 0 }) }
    }

    @Test(arguments: [FormatOptions.VHDBitmap.honour, .ignore])
    func powerLossLeavesOldOrNewBytes(_ bitmap: FormatOptions.VHDBitmap) throws {
        var builder = VHDBuilder(size: 300_544)
        builder.blockSize = 8192
        var random = SeededRandom(seed: 17)
        for block in stride(from: 0, to: 36, by: 2) {
            let written = Set((0..<16).filter { _ in Bool.random(using: &random) })
            builder.addBlock(block, random.bytes(8192), written: block % 8 == 0 ? [] : written)
        }
        let fixture = DiskFixture(
            name: "vhd with data that its bitmaps call absent", images: [(VHD.self, SparseBytes(builder.bytes()))],
            options: FormatOptions(vhdBitmap: bitmap, cacheBytes: 256 << 10))
        #expect(try PowerCutCampaign(fixture, seed: 6, states: 80, largest: 30_000).run().states >= 80)
    }
}
