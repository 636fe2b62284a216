import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The words for images of which something is gone: of their own format, and never that they could be raw disks.
struct DamagedFileTests {
    private func error(_ bytes: [UInt8], _ name: String) throws -> ImageError {
        let storage = MemoryStorage(bytes, name: name)
        let error = #expect(throws: ImageError.self) {
            let format = try Registry.detect(storage)
            _ = try format.open(OpenRequest(storage: storage, companions: NoCompanions()))
        }
        let found = try #require(error, "\(name)")
        #expect(!"\(found)".contains("format=raw"), "\(found)")
        return found
    }

    private func words(_ bytes: [UInt8], _ name: String) throws -> String { "\(try error(bytes, name))" }

    private static let zeros = [UInt8](repeating: 0, count: 1 << 20)
    private static let noise = [UInt8](repeating: 0xC7, count: 8192)

    private static var bootSector: [UInt8] {
        var sector = [UInt8](repeating: 0, count: 8192)
        (sector[510], sector[511]) = (0x55, 0xAA)
        return sector
    }

    private static let names = [
        "d.vhdx", "d.AVHDX", "d.vhd", "d.avhd", "d.vpc", "d.qcow2", "d.QCOW2", "d.qcow", "d.qcow1",
    ]

    @Test(arguments: names)
    func everyNameHasWords(_ name: String) throws {
        let isVHD = ["vhd", "avhd", "vpc"].contains { name.hasSuffix(".\($0)") }
        #expect(try words([], name).contains("empty"))
        let zeros = try words(Self.zeros, name)
        #expect(zeros.contains("the beginning of the file is zeros"), "\(zeros)")
        #expect(try words([3, 4, 5], name).contains("cut off"))
        let noise = try words(Self.noise, name)
        #expect(noise.contains(isVHD ? "no footer at its end: truncated?" : "does not begin like one"), "\(noise)")
        let table = try words(Self.bootSector, name)
        #expect(table.contains(isVHD ? "no footer at its end, only zeros" : "partition table"), "\(table)")
    }

    @Test func howFarTheZerosGoIsSaid() throws {
        #expect(try words(Self.zeros, "d.vhdx").contains("at least the first 65536 bytes"))
        #expect(try words([UInt8](repeating: 0, count: 4096), "d.qcow2").contains("all 4096 bytes"))
        #expect(try words([UInt8](repeating: 0, count: 65536), "d.qcow2").contains("all 65536 bytes"))
        #expect(try words([0, 0, 0, 0, 0] + Self.noise, "d.qcow2").contains("the first 5 bytes"))
    }

    // MARK: - VHDX

    private func vhdx() throws -> [UInt8] {
        let image = VHDXBuilder(size: 4 << 20).build()
        return try image.bytes(at: HostOffset(0), count: Int(image.size))
    }

    @Test func aVHDXWithoutItsFirstBytesIsKnownByItsHeaders() throws {
        var bytes = try vhdx()
        bytes.replaceSubrange(0..<512, with: [UInt8](repeating: 0, count: 512))
        for name in ["d.vhdx", "backup"] {
            let said = try words(bytes, name)
            #expect(said.contains("VHDX") && said.contains("overwritten") && said.contains("zeros"), "\(said)")
        }
        bytes.replaceSubrange(0..<512, with: Self.noise[..<512])
        #expect(try words(bytes, "backup").contains("headers behind that are whole"))
    }

    @Test func aVHDXThatLostItsHeadersOrItsEnd() throws {
        var bytes = try vhdx()
        #expect(try words(Array(bytes[..<100_000]), "d.vhdx").contains("cut off after 100000 bytes"))
        for index in 65536..<(1 << 20) { bytes[index] = 0 }
        #expect(try words(bytes, "d.vhdx").contains("the beginning of the file is lost"))
    }

    // MARK: - VHD

    private func fixed(_ data: [UInt8]) -> [UInt8] {
        var builder = VHDBuilder(size: UInt64(data.count))
        builder.type = 2
        builder.blocks = [(0, [], data)]
        return builder.bytes()
    }

    @Test func aFooterThatIsNotAtTheEnd() throws {
        let whole = fixed(Self.noise)
        for tail in [1, 512, 4096, 100_000] {
            let said = try words(whole + [UInt8](repeating: 0, count: tail), "d.vhd")
            #expect(said.contains("not at the end") && said.contains("truncate -s \(whole.count)"), "\(said)")
        }
        #expect(try words(Array(whole.dropLast(512)), "d.vhd").contains("no footer at its end: truncated?"))
        #expect(try words(Array(whole[..<600]), "d.vhd").contains("cut off"))
    }

    @Test func aDynamicVHDInPieces() throws {
        var builder = VHDBuilder(size: 1 << 20)
        builder.addBlock(0, [UInt8](repeating: 1, count: 4096))
        let whole = builder.bytes()
        // Its copy of the footer is there, and what that leads to is not.
        var bytes = Array(whole.dropLast(512))
        for index in 512..<1536 { bytes[index] = 0x11 }
        for name in ["d.vhd", "backup"] { #expect(try words(bytes, name).contains("damaged: truncated?")) }
        #expect(try words(Array(whole[..<1000]), "backup").contains("cut off"))
        // Its footer is there, and its beginning is not.
        bytes = whole
        for index in 0..<2048 { bytes[index] = 0 }
        #expect(try words(bytes, "d.vhd").contains("the beginning of the file is lost"))
    }

    // MARK: - qcow2

    @Test func aQcow2ThatWasCutOff() throws {
        let whole = QCOW2Builder().build()
        for count in [8, 50, 100] {
            #expect(try words(Array(whole[..<count]), "disk").contains("cut off"), "\(count)")
        }
        for count in [4, 7] {
            #expect(try words(Array(whole[..<count]), "disk").contains("cut off"), "\(count)")
        }
        let said = try words(Array(whole[..<5000]), "disk.qcow2")
        #expect(said.contains("L1 table") && said.contains("cut off after 5000 bytes"), "\(said)")
    }
}
