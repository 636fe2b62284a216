import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The rules about the block table and the sector bitmaps.
@Suite struct VHDMapTests {
    private func dynamic(blockSize: UInt32 = 4096, blocks: Int = 3) -> VHDBuilder {
        var image = VHDBuilder(size: UInt64(blockSize) * UInt64(blocks))
        image.blockSize = blockSize
        return image
    }

    /// The file with entry `index` of the table changed.
    private func bytes(_ image: VHDBuilder, entry index: Int, _ value: UInt32) -> [UInt8] {
        var bytes = image.bytes()
        let place = VHDBuilder.tableOffset + index * 4
        bytes.replaceSubrange(place..<(place + 4), with: VHDBuilder.big(value))
        return bytes
    }

    @Test func unusedBlocksAreHoles() throws {
        #expect(try Asking.words(try Asking.open(dynamic().bytes())) == ["hole 12288"])
    }

    @Test func fullBlockIsOneRun() throws {
        var image = dynamic()
        image.addBlock(1, [UInt8](repeating: 7, count: 4096))
        let driver = try Asking.open(image.bytes())
        #expect(driver.shape.allocationUnit == 4096)
        #expect(driver.shape.subformat == "dynamic")
        #expect(try Asking.words(driver) == ["hole 4096", "data 2560+4096", "hole 4096"])
    }

    /// Blocks of one sector have a bitmap each, and every look may be a read of the file.
    @Test func aWalkOverManyBitmapsEndsEarly() throws {
        var image = dynamic(blockSize: 512, blocks: 6000)
        for index in 0..<6000 { image.addBlock(index, [UInt8](repeating: 0, count: 512), written: []) }
        let driver = try Asking.open(image.bytes())
        var runs = ExtentList(for: ByteRange(0, to: driver.shape.virtualSize))
        try driver.map(.allocation, into: &runs)
        #expect(runs.count == 1 && !runs.isComplete)
        #expect(runs.covered >= 1000 * 512 && runs.covered <= 2100 * 512)
        #expect(try Asking.words(driver).allSatisfy { $0.hasPrefix("zero ") })
    }

    @Test func clearBitsOfADynamicImageAreZeros() throws {
        var image = dynamic()
        image.addBlock(0, [UInt8](repeating: 7, count: 4096), written: [0, 1, 5])
        let driver = try Asking.open(image.bytes())
        #expect(
            try Asking.words(driver) == ["data 2560+1024", "zero 1536", "data 5120+512", "zero 1024", "hole 8192"])
    }

    @Test func clearBitsOfADifferencingImageAskTheParent() throws {
        var image = dynamic()
        image.type = 4
        image.parentName = VHDBuilder.utf16BE("p.vhd")
        image.addBlock(0, [UInt8](repeating: 7, count: 4096), written: [7])
        let driver = try Asking.open(image.bytes())
        #expect(driver.shape.subformat == "differencing")
        #expect(try Asking.words(driver) == ["hole 3584", "data 6144+512", "hole 8192"])
    }

    @Test func bitmapsOfTheFirstXenServerToolsCountFromTheLowestBit() throws {
        var image = dynamic()
        image.creator = "tap"
        image.creatorVersion = 1
        image.addBlock(0, [UInt8](repeating: 7, count: 4096), written: [7])
        #expect(try Asking.words(try Asking.open(image.bytes())).first == "data 2560+512")
    }

    @Test func rangesMayBeginAndEndAnywhere() throws {
        var image = dynamic()
        var random = SeededRandom(seed: 9)
        var content = [UInt8](repeating: 0, count: 12288)
        for block in [2, 0] {
            let data = random.bytes(4096)
            let written = Set((0..<8).filter { _ in Bool.random(using: &random) })
            image.addBlock(block, data, written: written)
            for sector in written {
                let place = block * 4096 + sector * 512
                content.replaceSubrange(place..<(place + 512), with: data[(sector * 512)..<(sector * 512 + 512)])
            }
        }
        let driver = try Asking.open(image.bytes())
        for _ in 0..<500 {
            let lower = Int.random(in: 0..<12288, using: &random)
            let upper = Int.random(in: (lower + 1)...12288, using: &random)
            let range = ByteRange(UInt64(lower), to: UInt64(upper))
            #expect(try Asking.read([driver], range) == Array(content[lower..<upper]), "\(lower)..<\(upper)")
        }
    }

    @Test(arguments: [512, 1024, 4096, 1 << 20, 4 << 20] as [UInt32]) func anyBlockSize(size: UInt32) throws {
        var image = dynamic(blockSize: size, blocks: 2)
        image.addBlock(1, [UInt8](repeating: 7, count: Int(size)))
        let bitmap = max(512, UInt64(size) / 4096)
        #expect(
            try Asking.words(try Asking.open(image.bytes())) == ["hole \(size)", "data \(2048 + bitmap)+\(size)"])
    }

    @Test(arguments: [0, 256, 513, 3 << 20, 512 << 20, 1 << 31] as [UInt32])
    func absurdBlockSizesAreRefused(size: UInt32) {
        var image = dynamic()
        image.blockSize = size
        image.maxTableEntries = 3
        #expect(Asking.refusal(image.bytes())?.kind == .malformed)
    }

    @Test func lastBlockMayEndWithTheDisk() throws {
        var image = dynamic()
        image.size = 4096 + 1024
        image.addBlock(1, [UInt8](repeating: 7, count: 1024))
        #expect(try Asking.words(try Asking.open(image.bytes())) == ["hole 4096", "data 2560+1024"])
    }

    @Test func blockThatTheFooterCutsIsCorrupt() throws {
        var image = dynamic()
        image.addBlock(0, [UInt8](repeating: 7, count: 3584))
        let driver = try Asking.open(image.bytes())
        let error = #expect(throws: ImageError.self) { try Asking.words(driver) }
        #expect(error?.kind == .corrupt)
        #expect(error?.offset == UInt64(VHDBuilder.tableOffset))
    }

    @Test(arguments: [0, 1, 2, 3, 1000, 0xFFFF_FFFE] as [UInt32])
    func blocksOverMetadataOrOutsideTheFileAreCorrupt(entry: UInt32) throws {
        var image = dynamic()
        image.addBlock(0, [UInt8](repeating: 7, count: 4096))
        let driver = try Asking.open(bytes(image, entry: 0, entry))
        let error = #expect(throws: ImageError.self) { try Asking.words(driver) }
        #expect(error?.kind == .corrupt)
    }

    @Test func blockOverALocatorIsCorrupt() throws {
        var image = dynamic()
        image.type = 4
        image.locators = [VHDBuilder.Locator(code: "W2ru", text: VHDBuilder.utf16LE(".\\p.vhd"))]
        image.addBlock(0, [UInt8](repeating: 7, count: 4096))
        #expect(try Asking.words(try Asking.open(image.bytes())).first == "data 3072+4096")
        let driver = try Asking.open(bytes(image, entry: 0, 4))
        #expect(throws: ImageError.self) { try Asking.words(driver) }
    }

    @Test func damageFurtherOnEndsTheAnswer() throws {
        var image = dynamic()
        image.addBlock(0, [UInt8](repeating: 7, count: 4096))
        let driver = try Asking.open(bytes(image, entry: 2, 1))
        var list = ExtentList(for: ByteRange(0, to: 12288))
        try driver.map(.placement, into: &list)
        #expect(list.covered == 8192)
        var rest = ExtentList(for: ByteRange(8192, to: 12288))
        #expect(throws: ImageError.self) { try driver.map(.placement, into: &rest) }
    }

    @Test func tableMustCoverTheDisk() {
        var image = dynamic()
        image.maxTableEntries = 2
        #expect(Asking.refusal(image.bytes())?.kind == .corrupt)
    }

    @Test func tableMustLieInTheFile() {
        var image = dynamic()
        image.size = 1 << 40
        image.blockSize = 2 << 20
        image.maxTableEntries = 3
        var bytes = image.bytes()
        bytes.replaceSubrange((512 + 28)..<(512 + 32), with: VHDBuilder.big(UInt32(1 << 30)))
        bytes.replaceSubrange(512..<1536, with: VHDBuilder.summed(Array(bytes[512..<1536]), at: 36))
        #expect(Asking.refusal(bytes)?.kind == .corrupt)
    }

    /// Two terabytes of nothing: a table of half a million entries is walked in a few steps.
    @Test func longHolesTakeFewSteps() throws {
        var image = VHDBuilder(size: 2040 << 30)
        image.blockSize = 2 << 20
        let driver = try Asking.open(image.bytes())
        var rest = ByteRange(0, to: driver.shape.virtualSize)
        var steps = 0
        while !rest.isEmpty {
            var list = ExtentList(for: rest)
            try driver.map(.allocation, into: &list)
            #expect(list.count == 1)
            rest = rest.dropping(first: list.covered)
            steps += 1
        }
        #expect(steps <= 5)
    }

    @Test func emptyDiskOpens() throws {
        let driver = try Asking.open(VHDBuilder(size: 0).bytes())
        #expect(driver.shape.virtualSize == 0)
    }

    @Test func batmapIsTolerated() throws {
        var image = dynamic()
        image.creator = "tap"
        image.afterTable = Array("tdbatmap".utf8) + [UInt8](repeating: 0, count: 1016)
        image.addBlock(0, [UInt8](repeating: 7, count: 4096))
        let driver = try Asking.open(image.bytes())
        #expect(driver.shape.fact("batmap") == .flag(true))
        #expect(try Asking.words(driver).first == "data 3584+4096")
    }

    @Test func encryptedIsRefused() {
        var image = dynamic()
        image.creator = "tap"
        image.afterTable = Array("tdbatmap".utf8) + [UInt8](repeating: 0, count: 1016)
        image.afterTable[29] = 1
        #expect(Asking.refusal(image.bytes())?.kind == .unsupported)
    }
}
