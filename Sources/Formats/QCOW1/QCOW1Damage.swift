package import Storage

extension QCOW1 {
    package static var nameEndings: [String] { ["qcow", "qcow1"] }

    package static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError? {
        guard isNamed else { return nil }
        return start.lacks(Array("QFI".utf8) + [0xFB], words)
    }

    private static var words: FileStart.SignatureWords {
        FileStart.SignatureWords(
            short: "a qcow image that is cut off: nothing is left but its first bytes",
            zeros: "named like a qcow image, but the beginning of the file is zeros: its header is gone",
            bootSector:
                "named like a qcow image, but it begins with a boot sector or a partition table: its header was overwritten",
            other:
                "named like a qcow image, but it does not begin like one: its header was overwritten, or it is another file"
        )
    }
}
