internal import Bytes

/// How a new child names its parent: the name in the header, and locators for Windows and for everything else.
struct VHDNewLocators {
    /// The 512 bytes of the parent's name in UTF-16BE.
    private(set) var name = [UInt8](repeating: 0, count: 512)
    /// The locator entries, 24 bytes each.
    private(set) var entries: [UInt8] = []
    /// The locators' texts, in whole sectors each.
    private(set) var texts: [UInt8] = []

    private let start: UInt64

    /// Names `parent`; the texts go to byte `start`, a multiple of 512.
    ///
    /// A name with a backslash says something else to Windows, so that such a parent is named by URLs alone.
    init(_ parent: CreateRequest.Parent, at start: UInt64) {
        self.start = start
        let recorded = parent.recordedPath
        let hasBackslash = recorded.contains("\\") || parent.absolutePath.contains("\\")
        if !hasBackslash {
            if !recorded.hasPrefix("/") {
                add(.windowsRelative, Self.little(Self.dotted(Self.windows(recorded), separator: "\\")))
            }
            add(.windowsAbsolute, Self.little(Self.windows(parent.absolutePath)))
            let last = recorded.split(separator: "/").last.map(String.init) ?? recorded
            let units = Array(last.utf16)
            // 255 units and a zero: the field ends there.
            if units.count < 256 {
                for (index, unit) in units.enumerated() {
                    name[index * 2] = UInt8(unit >> 8)
                    name[index * 2 + 1] = UInt8(unit & 0xFF)
                }
            }
        }
        if hasBackslash, !recorded.hasPrefix("/") {
            // XenServer's form of a URL beside the image.
            add(.fileURL, Array("file://\(Self.encoded(Self.dotted(recorded, separator: "/")))".utf8))
        } else {
            add(.fileURL, Array("file://\(Self.encoded(parent.absolutePath))".utf8))
        }
    }

    private mutating func add(_ code: VHDLocatorCode, _ text: [UInt8]) {
        let space = (text.count + 511) / 512 * 512
        // The space in bytes, as Microsoft's programs count it: the specification's sectors would be below 512.
        entries += VHDCreate.big(code.rawValue) + VHDCreate.big(UInt32(clamping: space))
        entries += VHDCreate.big(UInt32(clamping: text.count)) + [0, 0, 0, 0]
        entries += VHDCreate.big(start + UInt64(texts.count))
        texts += text + [UInt8](repeating: 0, count: space - text.count)
    }

    private static func windows(_ path: String) -> String { String(path.map { $0 == "/" ? "\\" : $0 }) }

    /// A relative path that shows that it is one: `.\parent.vhd`.
    private static func dotted(_ path: String, separator: String) -> String {
        path.hasPrefix(".\(separator)") || path.hasPrefix("..\(separator)") ? path : ".\(separator)\(path)"
    }

    private static func little(_ text: String) -> [UInt8] { text.utf16.flatMap { [UInt8($0 & 0xFF), UInt8($0 >> 8)] } }

    /// A path as a URL has it: what is not a letter, a digit or one of a few marks is percent-encoded.
    private static func encoded(_ path: String) -> String {
        var result: [UInt8] = []
        for byte in path.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "/"), UInt8(ascii: "."), UInt8(ascii: "-"),
                UInt8(ascii: "_"), UInt8(ascii: "~"):
                result.append(byte)
            default:
                let digits = String(byte, radix: 16, uppercase: true)
                result += Array((digits.utf8.count < 2 ? "%0\(digits)" : "%\(digits)").utf8)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// Sizes as the options of `create` have them.
enum VHDSizeText {
    /// The bytes that `text` says: a number, and K, M or G behind it for powers of 1024. Nil for anything else.
    static func bytes(_ text: String) -> UInt64? {
        let suffixes: [Character: UInt64] = ["K": 10, "M": 20, "G": 30, "k": 10, "m": 20, "g": 30]
        guard let last = text.last else { return nil }
        guard let shift = suffixes[last] else { return UInt64(text) }
        return UInt64(text.dropLast()).flatMap { $0.checkedMultiplying(by: 1 << shift) }
    }
}
