import Bytes
import Formats
import Storage
import TestSupport
import Testing

struct VHDCheckTests {
    private func image(_ change: (inout VHDBuilder) -> Void = { _ in }) -> [UInt8] {
        var builder = VHDBuilder(size: 40_960)
        builder.addBlock(3, [UInt8](repeating: 7, count: 4096))
        builder.addBlock(5, (0..<4096).map { (512..<1536).contains($0) ? 8 : 0 }, written: [1, 2])
        change(&builder)
        return builder.bytes()
    }

    private func withEntry(_ block: Int, _ sector: UInt32) -> [UInt8] {
        var bytes = image()
        let place = VHDBuilder.tableOffset + block * 4
        bytes.replaceSubrange(place..<(place + 4), with: VHDBuilder.big(sector))
        return bytes
    }

    @Test func soundImageIsClean() throws {
        let report = try Asking.check(image())
        #expect(report.findings.isEmpty)
        #expect(report.allocatedBytes == 8192)
        #expect(report.imageEnd == UInt64(image().count))
    }

    @Test func everyWrongEntryIsFound() throws {
        let first = image().span.bytes.big(UInt32.self, at: VHDBuilder.tableOffset + 12)
        #expect(
            try Asking.faults(withEntry(4, first)) == [
                "corruption: two entries of the block allocation table have the same block"
            ])
        #expect(try Asking.faults(withEntry(4, first + 3)) == ["corruption: two blocks overlap"])
        #expect(try Asking.faults(withEntry(4, 99_999)) == ["corruption: a block lies past the end of the file"])
        #expect(try Asking.faults(withEntry(4, 1)) == ["corruption: a block overlaps the image's own tables"])
    }

    @Test func findingsOfOneKindAreOneThatNamesItsEntries() throws {
        var bytes = image()
        for block in [0, 1, 2, 8] {
            bytes.replaceSubrange(
                (VHDBuilder.tableOffset + block * 4)..<(VHDBuilder.tableOffset + block * 4 + 4),
                with: VHDBuilder.big(UInt32(1)))
        }
        let report = try Asking.check(bytes)
        let found = try #require(report.findings.first)
        #expect(report.findings.count == 1 && report.corruptions == 4 && found.count == 4)
        #expect(found.places.map(\.entry) == ["BAT entry 0", "BAT entry 1", "BAT entry 2", "BAT entry 8"])
        #expect(found.places[3].offset == UInt64(VHDBuilder.tableOffset) + 32)
    }

    /// Entries past the disk's last block: 0 as Xen Orchestra's merge leaves them, a block of a disk that was larger, one
    /// that would be another's, and one outside the file.
    @Test func entriesPastTheDisksEndAreOneNoteAndForbidNothing() throws {
        var bytes = image {
            $0.maxTableEntries = 100
            $0.addBlock(50, [UInt8](repeating: 9, count: 4096))
        }
        let taken = bytes.span.bytes.big(UInt32.self, at: VHDBuilder.tableOffset + 12)
        for (block, sector) in [(10, 0), (11, 0), (20, taken), (21, taken + 1), (99, 0xFFFF_0000)] {
            bytes.replaceSubrange(
                (VHDBuilder.tableOffset + block * 4)..<(VHDBuilder.tableOffset + block * 4 + 4),
                with: VHDBuilder.big(sector))
        }
        let report = try Asking.check(bytes)
        #expect(report.corruptions == 0 && report.leaks == 0 && report.allocatedBytes == 8192, "\(report.findings)")
        #expect(report.findings.map(\.severity) == [.note])
        #expect(report.findings[0].count == 6 && report.findings[0].places.map(\.entry) == ["BAT entry 10"])

        let kept = Int(bytes.span.bytes.big(UInt32.self, at: VHDBuilder.tableOffset + 200)) * 512
        let file = VHDScratch(bytes)
        var writer = try VHDWriter(file)
        for block in 0..<10 { try writer.write([UInt8](repeating: 0x55, count: 4096), at: UInt64(block * 4096)) }
        try writer.zero(ByteRange(0, to: 40_960))
        for block in 0..<10 { try writer.write([UInt8](repeating: UInt8(block), count: 100), at: UInt64(block * 4096)) }
        try writer.verify()
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(file.bytes[kept..<(kept + 512 + 4096)] == bytes[kept..<(kept + 512 + 4096)])
        let after = try Asking.check(file.bytes)
        #expect(after.corruptions == 0 && after.findings.contains { $0.count == 6 && $0.severity == .note })
    }

    @Test(.timeLimit(.minutes(5)))
    func aTableOfNothingFarPastTheDisksEndTakesNoTime() throws {
        // 2^32 - 1 entries: 16 GiB, all of them a hole but for the disk's own.
        var builder = VHDBuilder(size: 40_960)
        builder.maxTableEntries = 10
        var start = builder.bytes()
        start.replaceSubrange(
            512..<1536,
            with: VHDBuilder.summed(
                {
                    var header = Array(start[512..<1536])
                    header.replaceSubrange(28..<32, with: VHDBuilder.big(UInt32.max))
                    header.replaceSubrange(36..<40, with: [0, 0, 0, 0])
                    return header
                }(), at: 36))
        let end = (1536 + UInt64(UInt32.max) * 4 + 511) / 512 * 512
        let storage = SparseMemoryStorage(size: end + 512)
        storage.patch(Array(start[..<1576]), at: 0)
        storage.patch(Array(start.suffix(512)), at: end)
        let report = try VHD.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: false)
        #expect(report.corruptions == 0 && report.findings.map(\.count) == [UInt64(UInt32.max) - 10], "\(report)")
    }

    @Test func lostBlockIsALeakAndNotMended() throws {
        let bytes = withEntry(3, .max)
        let report = try Asking.check(bytes)
        #expect(report.corruptions == 0)
        #expect(report.leaks == 1)
        let file = VHDScratch(bytes)
        #expect(try Asking.check(bytes, repairs: file).leaks == 1)
        #expect(file.events.isEmpty)
    }

    @Test func leakAtTheEndIsCutOff() throws {
        var bytes = image { $0.addBlock(6, [UInt8](repeating: 9, count: 4096)) }
        let place = VHDBuilder.tableOffset + 5 * 4
        bytes.replaceSubrange(place..<(place + 8), with: [UInt8](repeating: 0xFF, count: 8))
        #expect(try Asking.check(bytes).leaks == 2)
        let file = VHDScratch(bytes)
        let report = try Asking.check(bytes, repairs: file)
        #expect(report.leaks == 0)
        #expect(report.leaksRepaired == 2)
        #expect(file.bytes.count < bytes.count)
        #expect(try Asking.faults(file.bytes).isEmpty)
        let range = ByteRange(0, to: 40_960)
        #expect(
            firstDifference(
                try Asking.read([Asking.open(file.bytes)], range), try Asking.read([Asking.open(bytes)], range)) == nil)
    }

    @Test func footersAreMendedFromEachOther() throws {
        let whole = image()
        let noTail = Array(whole.dropLast(512))
        var badTail = whole
        badTail[whole.count - 100] ^= 1
        var badCopy = whole
        badCopy[60] ^= 1
        for (bytes, corruptions) in [(noTail, 0), (badTail, 1), (badCopy, 1)] as [([UInt8], UInt64)] {
            #expect(try Asking.check(bytes).corruptions == corruptions)
            let file = VHDScratch(bytes)
            let report = try Asking.check(bytes, repairs: file)
            #expect(report.corruptions == 0)
            #expect(report.corruptionsRepaired == corruptions)
            #expect(try Asking.check(file.bytes).findings.filter { $0.severity != .note }.isEmpty)
            #expect(file.bytes.prefix(512) == whole.prefix(512))
            #expect(file.bytes.suffix(512) == whole.suffix(512))
        }
    }

    @Test func nothingIsMendedWhereBlocksAreWrong() throws {
        var bytes = withEntry(4, 1)
        bytes[60] ^= 1
        let file = VHDScratch(bytes)
        let report = try Asking.check(bytes, repairs: file)
        #expect(report.corruptions == 2)
        #expect(file.events.isEmpty)
    }

    @Test func damagedHeaderAndLocatorsAreFound() throws {
        var bytes = image()
        bytes[700] ^= 1
        #expect(try Asking.faults(bytes) == ["corruption: the dynamic header's checksum is wrong"])
        let child = image {
            $0.type = 4
            $0.parentName = VHDBuilder.utf16BE("p.vhd")
            $0.locators = [VHDBuilder.Locator(code: "W2ru", text: VHDBuilder.utf16LE("p.vhd"), offset: 1 << 40)]
        }
        #expect(try Asking.faults(child) == ["corruption: a parent locator lies outside the file"])
    }

    @Test func tableThatIsTooShortForTheDiskIsFound() throws {
        #expect(try Asking.check(image { $0.maxTableEntries = 9 }).corruptions == 1)
    }

    @Test func fixedImageThatEndsTooEarlyIsFound() throws {
        var builder = VHDBuilder(size: 8192)
        builder.type = 2
        builder.addBlock(0, [UInt8](repeating: 1, count: 8192))
        #expect(try Asking.check(builder.bytes()).findings.isEmpty)
        #expect(try Asking.check(Array(builder.bytes().dropFirst(512))).corruptions == 1)
    }

    @Test func markThatABitmapContradictsIsFoundInAChild() throws {
        var map = Array("tdbatmap".utf8) + VHDBuilder.big(UInt64(2560)) + VHDBuilder.big(UInt32(1))
        map += VHDBuilder.big(UInt32(0x0001_0002)) + [UInt8](repeating: 0, count: 512 - 24)
        for (mark, corruptions) in [(0x10, 0), (0x04, 1)] as [(UInt8, UInt64)] {
            let bytes = image {
                $0.type = 4
                $0.creator = "tap"
                $0.parentName = VHDBuilder.utf16BE("parent.vhd")
                $0.afterTable = map + [mark] + [UInt8](repeating: 0, count: 511)
            }
            #expect(try Asking.check(bytes).corruptions == corruptions)
        }
    }

    @Suite(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"))
    struct Shared {
        @Test(arguments: SharedImages.images(.equal).filter { $0.format == "vhd" })
        func soundImagesOfEveryProgramAreClean(image: SharedImage) throws {
            let request = OpenRequest(storage: try FileStorage(path: try image.path()), companions: NoCompanions())
            let report = try VHD.check(request, repairs: false)
            let isDamaged = image.name == "m-vhd-tail-bad-checksum.vhd"
            #expect(
                report.findings.filter { $0.severity != .note }.map(\.what)
                    == (isDamaged ? ["the footer at the end is damaged; its copy is used"] : []))
        }

        @Test(arguments: SharedImages.images(.error).filter { $0.format == "vhd" })
        func damagedImagesAreNot(image: SharedImage) throws {
            let request = OpenRequest(storage: try FileStorage(path: try image.path()), companions: NoCompanions())
            #expect(try VHD.check(request, repairs: false).corruptions > 0)
        }
    }
}
