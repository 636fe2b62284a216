package import Storage

extension QCOW2 {
    package static var nameEndings: [String] { ["qcow2"] }

    package static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError? {
        let signature = Array("QFI".utf8) + [0xFB]
        guard isNamed || start.begins(with: signature) else { return nil }
        return start.lacks(signature, words)
    }

    private static var words: FileStart.SignatureWords {
        FileStart.SignatureWords(
            short: "a qcow2 image that is cut off: nothing is left but its first bytes",
            zeros: "named like a qcow2 image, but the beginning of the file is zeros: its header is gone",
            bootSector:
                "named like a qcow2 image, but it begins with a boot sector or a partition table: its header was overwritten",
            other:
                "named like a qcow2 image, but it does not begin like one: its header was overwritten, or it is another file"
        )
    }
}
