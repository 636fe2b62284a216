/// A value to be written as JSON (RFC 8259). Members keep their order.
indirect enum JSONText: Sendable {
    case null
    case bool(Bool)
    case number(UInt64)
    case signed(Int64)
    case string(String)
    case array([JSONText])
    case object([(String, JSONText)])

    /// The text, indented by two spaces a level; one line for arrays and objects that hold no further ones.
    var text: String {
        var result: [UInt8] = []
        write(to: &result, depth: 0)
        return String(decoding: result, as: UTF8.self)
    }

    /// One line.
    var line: String {
        var result: [UInt8] = []
        writeFlat(to: &result)
        return String(decoding: result, as: UTF8.self)
    }

    /// A name that the system gave as bytes. JSON holds Unicode only: what is not UTF-8 is replaced, and a second
    /// member `<key>Bytes` then has all bytes in hexadecimal.
    static func name(_ key: String, _ bytes: [UInt8]) -> [(String, JSONText)] {
        let text: (String, JSONText) = (key, .string(String(decoding: bytes, as: UTF8.self)))
        guard String(validating: bytes, as: UTF8.self) == nil else { return [text] }
        let hex = bytes.map { Printable.hex(UInt32($0)) }.joined()
        return [text, (key + "Bytes", .string(hex))]
    }

    private var isFlat: Bool {
        switch self {
        case .array(let elements): elements.isEmpty
        case .object(let members): members.allSatisfy { !$0.1.isContainer }
        default: true
        }
    }

    private var isContainer: Bool {
        switch self {
        case .array(let elements): !elements.isEmpty
        case .object: true
        default: false
        }
    }

    private func write(to result: inout [UInt8], depth: Int) {
        switch self {
        case .array(let elements) where !isFlat:
            Self.writeLines(elements.count, "[", "]", depth: depth, to: &result) { index, result in
                elements[index].write(to: &result, depth: depth + 1)
            }
        case .object(let members) where !isFlat:
            Self.writeLines(members.count, "{", "}", depth: depth, to: &result) { index, result in
                Self.writeString(members[index].0, to: &result)
                result += ": ".utf8
                members[index].1.write(to: &result, depth: depth + 1)
            }
        default: writeFlat(to: &result)
        }
    }

    private static func writeLines(
        _ count: Int, _ open: String, _ close: String, depth: Int, to result: inout [UInt8],
        _ element: (Int, inout [UInt8]) -> Void
    ) {
        result += open.utf8
        for index in 0..<count {
            result += (index == 0 ? "\n" : ",\n").utf8
            result += [UInt8](repeating: UInt8(ascii: " "), count: 2 * (depth + 1))
            element(index, &result)
        }
        result += "\n".utf8
        result += [UInt8](repeating: UInt8(ascii: " "), count: 2 * depth)
        result += close.utf8
    }

    private func writeFlat(to result: inout [UInt8]) {
        switch self {
        case .null: result += "null".utf8
        case .bool(let value): result += (value ? "true" : "false").utf8
        case .number(let value): result += String(value).utf8
        case .signed(let value): result += String(value).utf8
        case .string(let value): Self.writeString(value, to: &result)
        case .array(let elements):
            result += "[".utf8
            for (index, element) in elements.enumerated() {
                if index > 0 { result += ", ".utf8 }
                element.writeFlat(to: &result)
            }
            result += "]".utf8
        case .object(let members):
            result += "{".utf8
            for (index, member) in members.enumerated() {
                if index > 0 { result += ", ".utf8 }
                Self.writeString(member.0, to: &result)
                result += ": ".utf8
                member.1.writeFlat(to: &result)
            }
            result += "}".utf8
        }
    }

    private static func writeString(_ text: String, to result: inout [UInt8]) {
        result.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): result += [UInt8(ascii: "\\"), byte]
            case UInt8(ascii: "\n"): result += "\\n".utf8
            case UInt8(ascii: "\t"): result += "\\t".utf8
            case UInt8(ascii: "\r"): result += "\\r".utf8
            case 0..<0x20, 0x7F: result += ("\\u00" + Printable.hex(UInt32(byte))).utf8
            default: result.append(byte)
            }
        }
        result.append(UInt8(ascii: "\""))
    }
}
