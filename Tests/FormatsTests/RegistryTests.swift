import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Which format a file is taken for.
struct RegistryTests {
    private func fixed(_ disk: [UInt8]) -> [UInt8] {
        var builder = VHDBuilder(size: UInt64(disk.count))
        builder.type = 2
        builder.blocks = [(0, [], disk)]
        return builder.bytes()
    }

    private func refusal(_ bytes: [UInt8], name: String = "image") -> ImageError? {
        do {
            _ = try Registry.detect(MemoryStorage(bytes, name: name))
            return nil
        } catch { return error }
    }

    /// The guest of a fixed VHD owns byte 0 of the file: it could make it a qcow2 that is backed by its neighbour's disk.
    @Test(arguments: ["QFI\u{FB}", "vhdxfile"])
    func aGuestOfAFixedVHDCannotChooseTheFormat(_ magic: String) throws {
        var disk = [UInt8](repeating: 0, count: 8192)
        #expect(try Registry.detect(MemoryStorage(fixed(disk))).name == "vhd")
        disk.replaceSubrange(
            0..<8, with: magic.unicodeScalars.map { UInt8($0.value) } + [0, 0, 0, 3].prefix(8 - magic.count))
        let error = try #require(refusal(fixed(disk)))
        #expect(error.kind == .malformed && "\(error)".contains("-o format="))
        #expect("\(error)".contains("vhd"))
        // Alone it is what it says.
        #expect(refusal(disk) == nil)
    }

    /// A guest could have written that into its raw disk, and a cloud image could have been called so.
    @Test func aNameThatSaysRawOverAnImageDecidesNothing() throws {
        var header = [UInt8](repeating: 0, count: 4096)
        header.replaceSubrange(0..<8, with: [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 3])
        var first = header
        first[7] = 1
        let dynamic = VHDBuilder(size: 1 << 20).bytes()
        let disk = [UInt8](repeating: 0, count: 8192)
        let cases: [([UInt8], [String])] = [
            (header, ["qcow2"]), (first, ["qcow"]), (dynamic, ["vhd"]), (fixed(disk), ["vhd"]),
            // The copy at its beginning is enough, as it is without the name.
            (Array(dynamic.dropLast(512)), ["vhd"]), (Array("vhdxfile".utf8) + disk, ["vhdx"]),
            (fixed(header), ["qcow2", "vhd"]),
        ]
        for (bytes, formats) in cases {
            for name in ["disk.img", "/x/disk.RAW", "a.vhd/disk.Img"] {
                let error = try #require(refusal(bytes, name: name), "\(formats)")
                #expect(error.kind == .malformed && "\(error)".contains("the name says raw"), "\(error)")
                for format in formats + ["raw"] { #expect("\(error)".contains("-o format=\(format)"), "\(error)") }
            }
            for (option, words) in [(FormatOption.parent, "-o backing-format="), (.newParent, "-F ")] {
                let error = #expect(throws: ImageError.self) {
                    try Registry.detect(MemoryStorage(bytes, name: "disk.img"), option: option)
                }
                #expect("\(error!)".contains("\(words)\(formats[0])") && "\(error!)".contains("\(words)raw"))
            }
        }
    }

    /// What a guest may have at the beginning of its disk: nothing, a partition table, a filesystem, encryption, an archive.
    @Test func whatADiskMayBeginWithIsRaw() throws {
        var sector = [UInt8](repeating: 0, count: 4096)
        (sector[510], sector[511]) = (0x55, 0xAA)
        let starts: [[UInt8]] = [
            [], sector, Array("LUKS".utf8) + [0xBA, 0xBE, 0, 1], Array("XFSB".utf8), [0x1F, 0x8B, 8],
            Array("hsqs".utf8), Array("070701".utf8), Array("text".utf8), Array("PK\u{3}\u{4}".utf8),
        ]
        for start in starts {
            #expect(try Registry.detect(MemoryStorage(start, name: "disk.img")).name == "raw")
            #expect(try Registry.detect(MemoryStorage(start + sector, name: "disk.raw")).name == "raw")
        }
    }

    /// In a directory a name may be bytes that no string holds, and the path another one.
    @Test func theNameMayBeGivenAsBytes() throws {
        let storage = MemoryStorage([1, 2, 3], name: "/proc/self/fd/5")
        #expect(throws: ImageError.self) { try Registry.detect(storage) }
        #expect(try Registry.detect(storage, name: [0xFF, 0xFE] + Array(".img".utf8)).name == "raw")
        #expect(Registry.isImageName([0xFF] + Array(".avhdx".utf8)) && Registry.isImageName(Array("a/b.VHD".utf8)))
        for name in ["vhd", ".vhd", "a.vhdz", "a.qcow2.xz", "vhd/a", ""] { #expect(!Registry.isImageName(name.utf8)) }
    }

    /// The guest of another image may own the last bytes of the file.
    @Test func aGuestCannotAppendAFooter() throws {
        let image = VHDXBuilder(size: 4 << 20).build()
        #expect(try Registry.detect(image).name == "vhdx")
        image.patch(fixed([UInt8](repeating: 0, count: 512)), at: image.size)
        #expect(throws: ImageError.self) { try Registry.detect(image) }
    }
}
