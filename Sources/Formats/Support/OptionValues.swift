internal import Storage

/// The values of one request's options, read as what they stand for.
struct OptionValues {
    private let values: [String: String]

    /// The options as given.
    init(_ values: [String: String]) { self.values = values }

    /// The text of an option as it was given; nil where it was not.
    subscript(name: String) -> String? { values[name] }

    /// `on` or `off` (also yes, true, no, false); nil where the option was not given. Throws `.outOfRange`.
    func flag(_ name: String) throws(ImageError) -> Bool? {
        guard let text = values[name] else { return nil }
        switch text.lowercased() {
        case "on", "yes", "true": return true
        case "off", "no", "false": return false
        default: throw Self.badValue(name, text, "on or off")
        }
    }

    /// A number without a unit; nil where the option was not given. Throws `.outOfRange`.
    func number(_ name: String) throws(ImageError) -> UInt64? {
        guard let text = values[name] else { return nil }
        guard let number = UInt64(text) else { throw Self.badValue(name, text, "a number") }
        return number
    }

    /// A number of bytes, maybe with a suffix (k, M, G, T as powers of 1024, also KiB or kB in any case); nil where the
    /// option was not given. Throws `.outOfRange`.
    func bytes(_ name: String) throws(ImageError) -> UInt64? {
        guard let text = values[name] else { return nil }
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let shift: UInt64
        switch text.dropFirst(digits.count).lowercased() {
        case "", "b": shift = 0
        case "k", "kb", "kib": shift = 10
        case "m", "mb", "mib": shift = 20
        case "g", "gb", "gib": shift = 30
        case "t", "tb", "tib": shift = 40
        default: throw Self.badValue(name, text, "a size such as 64K or 1M")
        }
        guard let number = UInt64(digits), number <= UInt64.max >> shift else {
            throw Self.badValue(name, text, "a size such as 64K or 1M")
        }
        return number << shift
    }

    /// One of the words that `Choice` has; nil where the option was not given. Throws `.outOfRange`.
    func choice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, _ type: Choice.Type = Choice.self
    ) throws(ImageError) -> Choice? where Choice.RawValue == String {
        guard let text = values[name] else { return nil }
        guard let choice = Choice(rawValue: text.lowercased()) else {
            throw Self.badValue(name, text, Choice.allCases.map(\.rawValue).joined(separator: ", "))
        }
        return choice
    }

    /// What is said of a value that an option cannot have.
    static func badValue(_ name: String, _ text: String, _ expected: String) -> ImageError {
        ImageError(.outOfRange, "an option has a value that it cannot have", detail: "\(name)=\(text): \(expected)")
    }
}
