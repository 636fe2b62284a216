/// A value of a JSON text (RFC 8259), for the manifest of the shared images and for the output of `--json`.
///
/// Numbers keep their text, so that sizes near 2^64 stay exact. The reader is strict: what it accepts, other readers
/// accept as well.
package enum JSON: Sendable, Hashable {
    case null
    case bool(Bool)
    case number(String)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    /// Why a text is not JSON, and at which byte.
    package struct SyntaxError: Error, CustomStringConvertible {
        package let description: String
    }

    /// Reads one value that fills all of `text`.
    package init(parsing text: some Sequence<UInt8>) throws {
        var reader = JSONReader(bytes: Array(text))
        self = try reader.value(depth: 0)
        guard try reader.next() == nil else { throw reader.error("text after the value") }
    }

    /// Reads one value that fills all of `text`.
    package init(parsing text: String) throws { try self.init(parsing: text.utf8) }

    /// The member `key` of an object.
    package subscript(key: String) -> JSON? {
        if case .object(let members) = self { members[key] } else { nil }
    }

    /// The element `index` of an array.
    package subscript(index: Int) -> JSON? {
        if case .array(let elements) = self, elements.indices.contains(index) { elements[index] } else { nil }
    }

    /// The text of a string.
    package var string: String? { if case .string(let text) = self { text } else { nil } }

    /// The value of a whole number that fits.
    package var uint64: UInt64? { if case .number(let text) = self { UInt64(text) } else { nil } }

    /// The value of a whole number that fits.
    package var int: Int? { if case .number(let text) = self { Int(text) } else { nil } }

    /// The value of a truth value.
    package var bool: Bool? { if case .bool(let value) = self { value } else { nil } }

    /// The elements of an array.
    package var array: [JSON]? { if case .array(let elements) = self { elements } else { nil } }

    /// The members of an object.
    package var object: [String: JSON]? { if case .object(let members) = self { members } else { nil } }
}

/// A recursive-descent reader over the bytes of a text.
private struct JSONReader {
    let bytes: [UInt8]
    var position = 0

    func error(_ reason: String) -> JSON.SyntaxError {
        JSON.SyntaxError(description: "not JSON: \(reason) at byte \(position)")
    }

    /// The next byte that is not white space, left in place; nil at the end.
    mutating func next() throws -> UInt8? {
        while position < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[position]) { position += 1 }
        return position < bytes.count ? bytes[position] : nil
    }

    mutating func take(_ character: Character) throws -> Bool {
        guard try next() == character.asciiValue else { return false }
        position += 1
        return true
    }

    mutating func expect(_ character: Character) throws {
        guard try take(character) else { throw error("'\(character)' expected") }
    }

    mutating func value(depth: Int) throws -> JSON {
        guard depth < 64 else { throw error("nested too deeply") }
        switch try next() {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    mutating func word(_ text: String, _ value: JSON) throws -> JSON {
        guard bytes[position...].starts(with: text.utf8) else { throw error("'\(text)' expected") }
        position += text.utf8.count
        return value
    }

    mutating func object(depth: Int) throws -> JSON {
        try expect("{")
        var members: [String: JSON] = [:]
        if try take("}") { return .object(members) }
        repeat {
            guard try next() == UInt8(ascii: "\"") else { throw error("a member's name expected") }
            let key = try string()
            try expect(":")
            guard members.updateValue(try value(depth: depth + 1), forKey: key) == nil else {
                throw error("the member '\(key)' a second time")
            }
        } while try take(",")
        try expect("}")
        return .object(members)
    }

    mutating func array(depth: Int) throws -> JSON {
        try expect("[")
        var elements: [JSON] = []
        if try take("]") { return .array(elements) }
        repeat { elements.append(try value(depth: depth + 1)) } while try take(",")
        try expect("]")
        return .array(elements)
    }

    mutating func number() throws -> JSON {
        let start = position
        let allowed = Set("+-.eE0123456789".utf8)
        while position < bytes.count, allowed.contains(bytes[position]) { position += 1 }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        let digits = text.drop { $0 == "-" }
        guard Double(text) != nil, digits.first?.isNumber == true, digits == "0" || !isZeroLed(digits) else {
            position = start
            throw error("a value expected")
        }
        return .number(text)
    }

    private func isZeroLed(_ digits: Substring) -> Bool {
        digits.hasPrefix("0") && digits.dropFirst().first?.isNumber == true
    }

    mutating func string() throws -> String {
        position += 1
        var text: [UInt8] = []
        while position < bytes.count {
            let byte = bytes[position]
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw error("bytes that are not UTF-8")
                }
                return string
            case UInt8(ascii: "\\"): text += try escape()
            case 0..<0x20: throw error("a control character in a string")
            default: text.append(byte)
            }
        }
        throw error("the end of a string expected")
    }

    private mutating func escape() throws -> [UInt8] {
        guard position < bytes.count else { throw error("an escape expected") }
        let byte = bytes[position]
        position += 1
        switch byte {
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "u"):
            var units = [try hex()]
            if UTF16.isLeadSurrogate(units[0]), bytes[position...].starts(with: "\\u".utf8) {
                position += 2
                units.append(try hex())
            }
            guard let text = String(validating: units, as: UTF16.self) else { throw error("a lone surrogate") }
            return Array(text.utf8)
        default: throw error("an unknown escape")
        }
    }

    private mutating func hex() throws -> UInt16 {
        guard position + 4 <= bytes.count,
            let unit = UInt16(String(decoding: bytes[position..<(position + 4)], as: UTF8.self), radix: 16)
        else { throw error("four hexadecimal digits expected") }
        position += 4
        return unit
    }
}
