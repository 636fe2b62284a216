import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Images that are read and not written, and those that are mended before they are.
struct VHDRefusalTests {
    private func image(_ change: (inout VHDBuilder) -> Void = { _ in }) -> [UInt8] {
        var builder = VHDBuilder(size: 40_960)
        builder.addBlock(3, [UInt8](repeating: 7, count: 4096))
        builder.addBlock(5, [UInt8](repeating: 8, count: 4096), written: [1, 2])
        change(&builder)
        return builder.bytes()
    }

    private func refusal(_ bytes: [UInt8]) throws -> ImageError? {
        // Whatever is refused here can be read.
        _ = try Asking.open(bytes)
        let file = VHDScratch(bytes)
        do {
            _ = try VHD.open(OpenRequest(storage: file, companions: NoCompanions(), isWritable: true))
            return nil
        } catch {
            #expect(file.events.isEmpty)
            return error
        }
    }

    private func withEntry(_ block: Int, _ sector: UInt32) -> [UInt8] {
        var bytes = image()
        let place = VHDBuilder.tableOffset + block * 4
        bytes.replaceSubrange(place..<(place + 4), with: VHDBuilder.big(sector))
        return bytes
    }

    @Test func soundImageIsWritten() throws { #expect(try refusal(image()) == nil) }

    @Test func savedStateIsOnlyRead() throws {
        var bytes = image()
        for place in [0, bytes.count - 512] {
            bytes[place + 84] = 1
            let summed = VHDBuilder.summed(Array(bytes[place..<(place + 512)]), at: 64)
            bytes.replaceSubrange(place..<(place + 512), with: summed)
        }
        #expect(try refusal(bytes)?.kind == .readOnly)
    }

    @Test func shortFooterIsOnlyRead() throws { #expect(try refusal(image { $0.tailBytes = 511 })?.kind == .readOnly) }

    @Test func sumOfEarlyXenServerIsOnlyRead() throws {
        var bytes = image { $0.creator = "tap" }
        bytes[bytes.count - 512 + 85] = 1
        #expect(try refusal(bytes)?.kind == .readOnly)
    }

    @Test func damagedCopyIsRefusedUntilItIsMended() throws {
        var bytes = image()
        bytes[100] ^= 1
        #expect(try refusal(bytes)?.kind == .corrupt)
        let file = VHDScratch(bytes)
        let report = try Asking.check(bytes, repairs: file)
        #expect(report.corruptions == 0)
        #expect(report.corruptionsRepaired == 1)
        #expect(firstDifference(file.bytes, image()) == nil)
        #expect(try refusal(file.bytes) == nil)
    }

    @Test func twoEntriesOfOneBlockAreRefused() throws {
        let bytes = image()
        let first = bytes.span.bytes.big(UInt32.self, at: VHDBuilder.tableOffset + 12)
        #expect(try refusal(withEntry(4, first))?.kind == .corrupt)
        #expect(try refusal(withEntry(4, first + 1))?.kind == .corrupt)
        #expect(try refusal(withEntry(4, first - 1))?.kind == .corrupt)
        #expect(try refusal(withEntry(4, 1_000_000))?.kind == .corrupt)
        #expect(try refusal(withEntry(4, 0))?.kind == .corrupt)
    }

    @Test func entriesAcrossSectorsAreOnlyRead() throws {
        var builder = VHDBuilder(size: 40_960)
        builder.tailBytes = 512
        var bytes = builder.bytes()
        // The table two bytes further on, inside its padding.
        var header = Array(bytes[512..<1536])
        header.replaceSubrange(16..<24, with: VHDBuilder.big(UInt64(VHDBuilder.tableOffset + 2)))
        bytes.replaceSubrange(512..<1536, with: VHDBuilder.summed(header, at: 36))
        #expect(try refusal(bytes)?.kind == .readOnly)
    }

    // MARK: - What a crash left

    @Test func missingFooterIsPutBackByTheFirstChangeAndNotBefore() throws {
        let whole = image()
        let file = VHDScratch(Array(whole.dropLast(512)) + [UInt8](repeating: 0, count: 100_000))
        let driver = try VHD.open(OpenRequest(storage: file, companions: NoCompanions(), isWritable: true))
        #expect(file.events.isEmpty)
        try driver.prepare()
        #expect(file.bytes.suffix(512) == whole.suffix(512))
        #expect(file.bytes.count < whole.count + 8192)
        let fresh = try Asking.open(file.bytes)
        #expect(fresh.shape.remarks.isEmpty)
        #expect(try Asking.faults(file.bytes).isEmpty)
        let range = ByteRange(0, to: 40_960)
        #expect(firstDifference(try Asking.read([fresh], range), try Asking.read([Asking.open(whole)], range)) == nil)
    }

    @Test func spaceThatASessionLeftAtTheEndIsCutOff() throws {
        let whole = image()
        let longer = whole.dropLast(512) + [UInt8](repeating: 0xEE, count: 100_000) + whole.suffix(512)
        let file = VHDScratch(Array(longer))
        var writer = try VHDWriter(file)
        #expect(file.size < UInt64(whole.count) + 8192)
        try writer.write([1, 2, 3], at: 1000)
        try writer.finish()
        try writer.verify(fresh: true)
    }

    @Test func sessionWithoutAChangeChangesNothing() throws {
        let whole = image()
        let file = VHDScratch(Array(whole.dropLast(512) + [UInt8](repeating: 0, count: 9000) + whole.suffix(512)))
        let driver = try VHD.open(OpenRequest(storage: file, companions: NoCompanions(), isWritable: true))
        try driver.close()
        #expect(file.events.isEmpty)
    }

    /// A child's block with XenServer's mark that is allocated anew takes all of its sectors, or the mark would lie.
    @Test func markedBlockOfAChildIsTakenWhole() throws {
        let parent = try Asking.open(image { $0.uniqueID = [UInt8](repeating: 0x5A, count: 16) })
        var map = Array("tdbatmap".utf8) + VHDBuilder.big(UInt64(2560)) + VHDBuilder.big(UInt32(1))
        map += VHDBuilder.big(UInt32(0x0001_0002)) + [UInt8](repeating: 0, count: 512 - 24)
        map += [0x40] + [UInt8](repeating: 0, count: 511)
        let file = VHDScratch(
            image {
                $0.type = 4
                $0.creator = "tap"
                $0.parentID = [UInt8](repeating: 0x5A, count: 16)
                $0.parentName = VHDBuilder.utf16BE("parent.vhd")
                $0.afterTable = map
            })
        var writer = try VHDWriter(file, below: [parent])
        try writer.write([9], at: 4096 + 700)
        try writer.write([9], at: 8192 + 700)
        #expect(try Asking.words(writer.driver, ByteRange(4096, to: 8192)).count == 1)
        #expect(try Asking.words(writer.driver, ByteRange(8192, to: 12288)).count == 3)
        try writer.finish()
        try writer.verify(fresh: true)
        #expect(try Asking.faults(file.bytes).isEmpty)
    }
}
