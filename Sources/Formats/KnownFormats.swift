internal import Bytes
internal import Storage

/// Formats that platter recognises only to say that it does not read them: a clearer answer than "not an image".
enum KnownFormats {
    private static let magics: [(text: StaticString, offset: Int, name: String)] = [
        ("KDMV", 0, "VMDK"),
        ("# Disk DescriptorFile", 0, "VMDK descriptor"),
        ("QED\0", 0, "QED"),
        ("WithoutFreeSpace", 0, "Parallels"),
        ("WithouFreSpacExt", 0, "Parallels"),
        ("EVF\u{09}", 0, "EWF"),
        ("<<< ", 0, "VDI"),
    ]

    /// The name of a known format that is not read, or nil. Throws `.io`.
    static func name(of storage: any Storage) throws(ImageError) -> String? {
        var head = [UInt8](repeating: 0, count: 64)
        var count = 0
        var failure: ImageError?
        head.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { count = try storage.read(at: HostOffset(0), into: buffer) } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        let span = head.span.bytes.extracting(first: count)
        return magics.first { span.hasASCII($0.text, at: $0.offset) }?.name
    }
}
