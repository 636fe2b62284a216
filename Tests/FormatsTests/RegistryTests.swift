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
        // Alone it is what it says, and the name still wins over all of it.
        #expect(refusal(disk) == nil)
        #expect(refusal(fixed(disk), name: "disk.RAW") == nil)
    }

    /// The guest of another image may own the last bytes of the file.
    @Test func aGuestCannotAppendAFooter() throws {
        let image = VHDXBuilder(size: 4 << 20).build()
        #expect(try Registry.detect(image).name == "vhdx")
        image.patch(fixed([UInt8](repeating: 0, count: 512)), at: image.size)
        #expect(throws: ImageError.self) { try Registry.detect(image) }
    }
}
