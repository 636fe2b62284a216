/// The user's word about the format of files with certain names: `-o format=NAME:PATTERN`.
package struct FormatRule: Sendable, Equatable {
    /// The format, by registry name.
    package var format: String
    /// The names that it is said of.
    package var pattern: NamePattern

    /// Makes a rule of its parts.
    package init(format: String, pattern: NamePattern) {
        self.format = format
        self.pattern = pattern
    }
}

/// The option by which the user names the format of a file that cannot be told: every refusal says it.
package enum FormatOption: Sendable {
    /// `-o format=`, of the image itself.
    case image
    /// `-o format=` with a pattern, of one image among many.
    case member(pattern: String)
    /// `-o backing-format=`, of a parent whose child does not record it.
    case parent
    /// `-F`, of the parent of an image that is to be made.
    case newParent

    /// The option for the file whose path ends with `name`; one that is no plain text is left to the user to describe.
    package static func member(called name: [UInt8]) -> FormatOption {
        let last = name.split(separator: UInt8(ascii: "/")).last ?? []
        let isPlain = last.allSatisfy { byte in
            byte > 0x20 && byte != 0x7F && !"*?[\\,\"'$`&;|<>()#".utf8.contains(byte)
        }
        guard isPlain, let text = String(validating: last, as: UTF8.self) else { return .member(pattern: "PATTERN") }
        return .member(pattern: text)
    }

    /// The option with the name of a format.
    func naming(_ format: String) -> String {
        switch self {
        case .image: "-o format=\(format)"
        case .member(let pattern): "-o format=\(format):\(pattern)"
        case .parent: "-o backing-format=\(format)"
        case .newParent: "-F \(format)"
        }
    }
}

/// The name of a file, as far as it says what is in it. Letters count in any case.
struct FileName {
    /// The last component.
    let bytes: [UInt8]

    /// The last component of `path`.
    init(_ path: some Collection<UInt8>) {
        bytes = path.split(separator: UInt8(ascii: "/")).last.map { $0.map(Self.lowered) } ?? []
    }

    /// Returns whether it ends with a dot and one of `endings`.
    func ends(with endings: [String]) -> Bool {
        endings.contains { ending in
            bytes.count > ending.utf8.count + 1 && bytes.suffix(ending.utf8.count + 1).elementsEqual(".\(ending)".utf8)
        }
    }

    /// Whether it says that the file is a raw disk.
    var saysRaw: Bool { bytes.count >= 4 && [".raw", ".img"].contains { bytes.suffix(4).elementsEqual($0.utf8) } }

    private static func lowered(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
    }
}
