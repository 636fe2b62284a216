import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The rules about footers: which one counts, what it must say, and which of its sizes is the disk's.
@Suite struct VHDFooterTests {
    private func dynamic() -> VHDBuilder {
        var image = VHDBuilder(size: 12288)
        image.addBlock(1, [UInt8](repeating: 7, count: 4096))
        return image
    }

    private func fixed(_ data: [UInt8]) -> VHDBuilder {
        var image = VHDBuilder(size: UInt64(data.count))
        image.type = 2
        image.blocks = [(0, [], data)]
        return image
    }

    private func isRecognised(_ bytes: [UInt8]) throws -> Bool { try VHD.recognises(MemoryStorage(bytes)) }

    /// The bytes with the footer's field changed and its checksum made right again, at the end and in the copy.
    private func patched(_ image: VHDBuilder, _ field: Int, _ value: [UInt8]) -> [UInt8] {
        var footer = image.footer()
        footer.replaceSubrange(field..<(field + value.count), with: value)
        footer = VHDBuilder.summed(footer, at: 64)
        var bytes = image.bytes()
        bytes.replaceSubrange((bytes.count - 512)..., with: footer)
        if image.type != 2 { bytes.replaceSubrange(..<512, with: footer) }
        return bytes
    }

    @Test func fixedIsOnePieceBeforeTheFooter() throws {
        let driver = try Asking.open(fixed([UInt8](repeating: 3, count: 5120)).bytes())
        #expect(driver.shape.subformat == "fixed")
        #expect(driver.parent == nil)
        #expect(try Asking.words(driver) == ["data 0+5120"])
    }

    @Test func fixedMustHoldItsSize() throws {
        var image = fixed([UInt8](repeating: 3, count: 5120))
        image.size = 5121
        let error = try #require(Asking.refusal(image.bytes()))
        #expect(error.kind == .corrupt)
    }

    @Test(arguments: [2, 3] as [UInt32]) func footerOf511Bytes(type: UInt32) throws {
        var image = type == 2 ? fixed([UInt8](repeating: 3, count: 5120)) : dynamic()
        image.tailBytes = 511
        let bytes = image.bytes()
        #expect(bytes.count % 512 == 511)
        #expect(try isRecognised(bytes))
        let driver = try Asking.open(bytes)
        #expect(driver.shape.virtualSize == image.size)
        #expect(driver.shape.fact("footerSize") == .bytes(511))
        let block = image.type == 2 ? [3] : [UInt8](repeating: 7, count: 1)
        #expect(try Asking.read([driver], ByteRange(4096, to: 4097)) == block)
    }

    @Test func copyStandsInForAMissingFooter() throws {
        var image = dynamic()
        image.tailBytes = 0
        #expect(try isRecognised(image.bytes()))
        let driver = try Asking.open(image.bytes())
        #expect(driver.shape.remarks.contains { $0.contains("missing or damaged") })
        #expect(try Asking.read([driver], ByteRange(4096, to: 8192)) == [UInt8](repeating: 7, count: 4096))
        #expect(try VHD.virtualSize(of: MemoryStorage(image.bytes()), options: FormatOptions()) == 12288)
    }

    @Test func copyStandsInForADamagedFooter() throws {
        var bytes = dynamic().bytes()
        bytes[bytes.count - 100] ^= 1
        let driver = try Asking.open(bytes)
        #expect(driver.shape.remarks.contains { $0.contains("missing or damaged") })
    }

    @Test func copyIsNotUsedWithoutItsDynamicHeader() throws {
        var image = dynamic()
        image.tailBytes = 0
        var bytes = image.bytes()
        bytes[512 + 100] ^= 1
        #expect(try !isRecognised(bytes))
        #expect(Asking.refusal(bytes)?.kind == .malformed)
    }

    @Test func copyOfAFixedImageIsNoImage() throws {
        let forged = fixed([])
        let bytes = forged.footer() + [UInt8](repeating: 0, count: 4096)
        #expect(try !isRecognised(bytes))
    }

    /// V-1: sector 0 of a fixed image belongs to the guest.
    @Test func guestCannotTurnAFixedImageIntoADynamicOne() throws {
        let forged = Array(dynamic().bytes().dropLast(512))
        let image = fixed(forged)
        let driver = try Asking.open(image.bytes())
        #expect(driver.shape.subformat == "fixed")
        #expect(try Asking.read([driver], ByteRange(0, to: UInt64(forged.count))) == forged)
        // Nor when the fixed image's own footer has rotted.
        var rotten = image.bytes()
        rotten[rotten.count - 200] ^= 1
        #expect(Asking.refusal(rotten)?.kind == .malformed)
    }

    @Test func footerAtTheEndWinsOverItsCopy() throws {
        let image = dynamic()
        var bytes = image.bytes()
        var other = image.footer()
        other.replaceSubrange(48..<56, with: VHDBuilder.big(UInt64(8192)))
        bytes.replaceSubrange(..<512, with: VHDBuilder.summed(other, at: 64))
        let driver = try Asking.open(bytes)
        #expect(driver.shape.virtualSize == 12288)
        #expect(driver.shape.remarks.contains { $0.contains("another size") })
    }

    @Test func copyOfAnotherImageIsRefused() throws {
        var other = dynamic()
        other.uniqueID[3] ^= 1
        var bytes = dynamic().bytes()
        bytes.replaceSubrange(..<512, with: other.footer())
        #expect(Asking.refusal(bytes)?.kind == .malformed)
    }

    @Test func damagedCopyIsARemark() throws {
        var bytes = dynamic().bytes()
        bytes[100] ^= 1
        let driver = try Asking.open(bytes)
        #expect(driver.shape.remarks.contains { $0.contains("copy of the footer") })
    }

    @Test func poisonedIsRefused() throws {
        let bytes = patched(dynamic(), 0, Array("v_poison".utf8))
        #expect(try isRecognised(bytes))
        #expect(Asking.refusal(bytes)?.kind == .unsupported)
    }

    @Test(arguments: [0, 1, 5, 6, 7] as [UInt32]) func otherDiskTypesAreRefused(type: UInt32) {
        #expect(Asking.refusal(patched(dynamic(), 60, VHDBuilder.big(type)))?.kind == .unsupported)
    }

    @Test func otherVersionsAreRefused() {
        #expect(Asking.refusal(patched(dynamic(), 12, VHDBuilder.big(UInt32(0x0002_0000))))?.kind == .unsupported)
    }

    @Test func sizeIsTheCurrentOneUnlessGeometryIsAskedFor() throws {
        var image = fixed([UInt8](repeating: 1, count: 20 * 512))
        image.geometry = (2, 3, 3)
        let bytes = image.bytes()
        #expect(try Asking.open(bytes).shape.virtualSize == 20 * 512)
        #expect(try Asking.open(bytes, options: FormatOptions(vhdSize: .chs)).shape.virtualSize == 18 * 512)
        #expect(try VHD.virtualSize(of: MemoryStorage(bytes), options: FormatOptions(vhdSize: .chs)) == 18 * 512)
        #expect(try Asking.open(bytes).shape.remarks.isEmpty)
    }

    @Test(arguments: ["vpc ", "qemu"]) func twoSizesAreWorthARemark(creator: String) throws {
        var image = fixed([UInt8](repeating: 1, count: 20 * 512))
        image.geometry = (2, 3, 3)
        image.creator = creator
        #expect(try Asking.open(image.bytes()).shape.remarks.contains { $0.contains("vhd-size=chs") })
    }

    @Test func largestGeometrySaysNothing() throws {
        let bytes = fixed([UInt8](repeating: 1, count: 512)).bytes()
        #expect(try Asking.open(bytes, options: FormatOptions(vhdSize: .chs)).shape.virtualSize == 512)
    }

    @Test func hiddenMarkOfXenServerIsOutsideTheSum() throws {
        var image = dynamic()
        image.creator = "tap"
        var bytes = image.bytes()
        bytes[85] = 1
        bytes[bytes.count - 512 + 85] = 1
        #expect(try Asking.open(bytes).shape.remarks.isEmpty)
    }

    @Test func factsNameTheImage() throws {
        let shape = try Asking.open(patched(dynamic(), 84, [1])).shape
        #expect(shape.fact("savedState") == .flag(true))
        #expect(shape.fact("creator") == .text("tst"))
        #expect(shape.fact("created") == .text("2001-01-01T00:00:00Z"))
        #expect(shape.fact("uniqueId") == .text("a5a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5"))
    }

    @Test func shortFilesAreNoImages() throws {
        for count in [0, 1, 510, 511, 512, 1024] {
            let bytes = [UInt8](repeating: 0, count: count)
            #expect(try !isRecognised(bytes))
            #expect(Asking.refusal(bytes)?.kind == .malformed)
        }
    }

    /// No cut and no flipped byte of the metadata may do anything but open or be refused.
    @Test func damageAnywhereIsHarmless() throws {
        let whole = dynamic().bytes()
        for cut in stride(from: 0, to: whole.count, by: 101) {
            _ = try? Asking.words(try Asking.open(Array(whole.prefix(cut))))
        }
        var random = SeededRandom(seed: 5)
        for _ in 0..<500 {
            var bytes = whole
            for _ in 0..<3 { bytes[Int.random(in: 512..<2048, using: &random)] = .random(in: 0...255, using: &random) }
            bytes.replaceSubrange(512..<1536, with: VHDBuilder.summed(Array(bytes[512..<1536]), at: 36))
            guard let driver = try? Asking.open(bytes) else { continue }
            let range = ByteRange(0, to: driver.shape.virtualSize)
            guard let runs = try? Asking.runs(driver, range) else { continue }
            for case .data(_, let offset) in runs.map(\.place) { #expect(offset.rawValue < UInt64(bytes.count)) }
        }
    }
}
