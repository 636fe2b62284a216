internal import Bytes
package import Storage

extension VHDX {
    package static var nameEndings: [String] { ["vhdx", "avhdx"] }

    package static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError? {
        // The two copies of the header lie behind what programs write over.
        if try hasHeader(storage) {
            let detail = start.zeros >= 8 ? "\(start.zerosInWords) are zeros" : nil
            return ImageError(
                .malformed, "a VHDX whose beginning has been overwritten; its headers behind that are whole",
                detail: detail)
        }
        guard isNamed || start.size < 8 && start.has("vhdx") else { return nil }
        return start.lacks(Array("vhdxfile".utf8), words)
    }

    private static var words: FileStart.SignatureWords {
        FileStart.SignatureWords(
            short: "a VHDX that is cut off: nothing is left but its first bytes",
            zeros: "named like a VHDX, but the beginning of the file is zeros: its header is gone",
            bootSector:
                "named like a VHDX, but it begins with a boot sector or a partition table: its header was overwritten",
            other:
                "named like a VHDX, but it does not begin like one: its header was overwritten, or it is another file")
    }

    private static func hasHeader(_ storage: any Storage) throws(ImageError) -> Bool {
        for slot in 1...2 {
            let place = HostOffset(VHDXHeader.place(slot))
            guard storage.holds(place, count: UInt64(VHDXHeader.byteCount)) else { return false }
            if VHDXHeader.isValid(try storage.bytes(at: place, count: VHDXHeader.byteCount)) { return true }
        }
        return false
    }
}
