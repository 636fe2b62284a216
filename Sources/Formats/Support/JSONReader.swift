/// A strict reader of the JSON objects in which QEMU names files, for names of a few hundred bytes: it knows objects,
/// strings, numbers, true, false and null, and gives all values of all objects in one flat list.
///
/// As in QEMU, `{"file": {"filename": "a"}}` and `{"file.filename": "a"}` are the same.
struct JSONReader {
    /// A value that is no object.
    enum Value: Equatable {
        case string(String)
        /// A number, as it is written.
        case number(String)
        case bool(Bool)
        case null
    }

    /// What is wrong with a text.
    struct Failure: Error {
        /// A few words for people.
        var reason: String
    }

    /// Objects within objects, at most.
    private static let deepest = 8
    /// Values in all objects together, at most.
    private static let mostValues = 128

    private var rest: Substring.UTF8View
    private var values: [String: Value] = [:]

    /// The values in `text`, by their keys, with those of the objects around them and dots in front. Throws where it is
    /// no object, where a key is there twice, and where the text is impossibly long or deep.
    static func values(_ text: String) throws(Failure) -> [String: Value] {
        guard text.utf8.count <= 4096 else { throw Failure(reason: "it is too long") }
        var reader = JSONReader(rest: text[...].utf8)
        try reader.object(prefix: "", depth: 1)
        reader.skipSpace()
        guard reader.rest.isEmpty else { throw Failure(reason: "something follows the object") }
        return reader.values
    }

    private init(rest: Substring.UTF8View) { self.rest = rest }

    private mutating func object(prefix: String, depth: Int) throws(Failure) {
        guard depth <= Self.deepest else { throw Failure(reason: "its objects lie too deep") }
        try expect("{")
        if take("}") { return }
        repeat {
            let key = prefix + (try string())
            try expect(":")
            skipSpace()
            if rest.first == UInt8(ascii: "{") {
                try object(prefix: key + ".", depth: depth + 1)
            } else {
                guard values.updateValue(try scalar(), forKey: key) == nil else {
                    throw Failure(reason: "it says '\(key)' twice")
                }
                guard values.count <= Self.mostValues else { throw Failure(reason: "it has too many values") }
            }
        } while take(",")
        try expect("}")
    }

    private mutating func scalar() throws(Failure) -> Value {
        if let quote = rest.first, quote == UInt8(ascii: "\"") || quote == UInt8(ascii: "'") {
            return .string(try string())
        }
        let word = rest.prefix {
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || [0x2B, 0x2D, 0x2E].contains($0)
        }
        rest = rest.dropFirst(word.count)
        switch String(Substring(word)) {
        case "true": return .bool(true)
        case "false": return .bool(false)
        case "null": return .null
        case let text where Double(text) != nil && text.utf8.allSatisfy(Self.isOfNumber): return .number(text)
        default: throw Failure(reason: "it is no JSON")
        }
    }

    private static func isOfNumber(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || "+-.eE".utf8.contains(byte)
    }

    /// A string in double quotes, or in single ones, which QEMU knows too.
    private mutating func string() throws(Failure) -> String {
        skipSpace()
        guard let quote = rest.first, quote == UInt8(ascii: "\"") || quote == UInt8(ascii: "'") else {
            throw Failure(reason: "it is no JSON")
        }
        rest = rest.dropFirst()
        var bytes: [UInt8] = []
        while let byte = rest.popFirst(), byte >= 0x20 {
            if byte == quote {
                guard let text = String(validating: bytes, as: UTF8.self) else { break }
                return text
            }
            if byte == UInt8(ascii: "\\") { try bytes += escaped() } else { bytes.append(byte) }
        }
        throw Failure(reason: "it is no JSON")
    }

    /// What stands behind a backslash. Names of files hold no control characters but by mistake, so that of those only the
    /// ones with a letter are known.
    private mutating func escaped() throws(Failure) -> [UInt8] {
        let letters: [UInt8: UInt8] = [0x62: 8, 0x66: 12, 0x6E: 10, 0x72: 13, 0x74: 9]
        guard let byte = rest.popFirst() else { throw Failure(reason: "it is no JSON") }
        if [0x22, 0x27, 0x2F, 0x5C].contains(byte) { return [byte] }
        if let letter = letters[byte] { return [letter] }
        guard byte == UInt8(ascii: "u") else { throw Failure(reason: "it is no JSON") }
        var units = [try unit()]
        if UTF16.isLeadSurrogate(units[0]), rest.starts(with: Array("\\u".utf8)) {
            rest = rest.dropFirst(2)
            units.append(try unit())
        }
        guard units != [0], let text = String(validating: units, as: UTF16.self) else {
            throw Failure(reason: "it holds a character that there is not")
        }
        return Array(text.utf8)
    }

    private mutating func unit() throws(Failure) -> UInt16 {
        let digits = rest.prefix(4)
        guard digits.count == 4, digits.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }),
            let unit = UInt16(Substring(digits), radix: 16)
        else { throw Failure(reason: "it is no JSON") }
        rest = rest.dropFirst(4)
        return unit
    }

    private mutating func skipSpace() {
        rest = rest.drop { [0x20, 0x09, 0x0A, 0x0D].contains($0) }
    }

    /// Takes a mark away where it is the next thing.
    private mutating func take(_ mark: Unicode.Scalar) -> Bool {
        skipSpace()
        guard rest.first == UInt8(ascii: mark) else { return false }
        rest = rest.dropFirst()
        return true
    }

    private mutating func expect(_ mark: Unicode.Scalar) throws(Failure) {
        guard take(mark) else { throw Failure(reason: "it is no JSON") }
    }
}
