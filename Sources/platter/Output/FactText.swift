internal import Formats

/// How `platter info` writes the value of a fact.
extension Fact.Value {
    /// For people.
    var text: String {
        switch self {
        case .text(let text): text
        case .number(let number): String(number)
        case .bytes(let count): Printable.exactSize(count)
        case .flag(let flag): flag ? "yes" : "no"
        case .list(let words): words.joined(separator: ", ")
        case .absent: "not recorded"
        }
    }

    /// For programs: strings, numbers (sizes in bytes), booleans, arrays of strings, or null.
    var json: JSONText {
        switch self {
        case .text(let text): .string(text)
        case .number(let number), .bytes(let number): .number(number)
        case .flag(let flag): .bool(flag)
        case .list(let words): .array(words.map { .string($0) })
        case .absent: .null
        }
    }
}
