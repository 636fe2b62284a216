internal import Bytes
internal import Storage

/// The first bytes of a file that is no image of its format, looked at for what has become of it.
package struct FileStart: Sendable {
    /// At most so much is looked at, in bytes.
    static let limit = 65536
    /// A text in bytes: less may be the beginning of anything, and a page that a server sent in place of an image is smaller.
    private static let textSizes: ClosedRange<UInt64> = 8...1 << 20

    /// What has been read.
    let bytes: [UInt8]
    /// The size of the whole file in bytes.
    let size: UInt64

    /// Reads the start, `count` bytes where there are so many. Throws `.io`.
    init(_ storage: any Storage, atMost count: Int = limit) throws(ImageError) {
        size = storage.size
        var bytes = [UInt8](repeating: 0, count: Int(min(size, UInt64(count))))
        var done = 0
        var failure: ImageError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { done = try storage.read(at: HostOffset(0), into: buffer) } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        bytes.removeLast(bytes.count - done)
        self.bytes = bytes
    }

    /// Returns whether `text` stands at `offset`.
    func has(_ text: StaticString, at offset: Int = 0) -> Bool { bytes.span.bytes.hasASCII(text, at: offset) }

    /// Returns whether `magic` stands at `offset`.
    func begins(with magic: [UInt8], at offset: Int = 0) -> Bool { bytes.dropFirst(offset).starts(with: magic) }

    /// How many zeros the file begins with, as far as has been read.
    var zeros: Int { bytes.firstIndex { $0 != 0 } ?? bytes.count }

    /// The zeros for a person.
    var zerosInWords: String {
        if zeros == bytes.count {
            return bytes.count < Self.limit || size == UInt64(Self.limit)
                ? "all \(size) bytes" : "at least the first \(zeros) bytes"
        }
        return "the first \(zeros) bytes"
    }

    /// Whether the first sector is a boot sector or holds a partition table.
    var isBootSector: Bool { bytes.count >= 512 && bytes[510] == 0x55 && bytes[511] == 0xAA }

    /// What a file of text says of itself: no image is one. Nil where it is none.
    var text: StaticString? {
        let head = bytes.prefix(512)
        guard Self.textSizes.contains(size), head.allSatisfy(Self.isText), head.contains(where: { $0 > 0x20 }),
            // The last character may be cut.
            (0..<4).contains(where: { String(validating: head.dropLast($0), as: UTF8.self) != nil })
        else { return nil }
        let words = String(decoding: head, as: UTF8.self).lowercased().drop { $0.isWhitespace || $0 == "\u{FEFF}" }
        if words.hasPrefix("<!doctype html") || words.hasPrefix("<html") {
            return "holds an HTML page and no disk image: a download that failed?"
        }
        if words.hasPrefix("version https://git-lfs") {
            return "holds a pointer of Git LFS and no disk image; 'git lfs pull' fetches the file itself"
        }
        return "holds text and no disk image: a download that failed?"
    }

    private static func isText(_ byte: UInt8) -> Bool {
        byte >= 0x20 && byte != 0x7F || [0x09, 0x0A, 0x0C, 0x0D].contains(byte)
    }

    /// What is said of a file that is named like an image of a format that begins with a signature, and does not.
    struct SignatureWords {
        /// The file is shorter than the signature.
        var short: StaticString
        /// It begins with zeros.
        var zeros: StaticString
        /// It begins with a boot sector or a partition table.
        var bootSector: StaticString
        /// It begins with something else.
        var other: StaticString
    }

    /// Says what is wrong with a file that should begin with `signature` and does not.
    func lacks(_ signature: [UInt8], _ words: SignatureWords) -> ImageError {
        if size < UInt64(signature.count) || begins(with: signature) {
            return ImageError(.malformed, words.short, detail: "\(size) bytes")
        }
        if isBootSector { return ImageError(.malformed, words.bootSector) }
        if zeros >= signature.count { return ImageError(.malformed, words.zeros, detail: zerosInWords) }
        return ImageError(.malformed, words.other)
    }
}
