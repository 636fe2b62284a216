/// The values that options take. Every failure names the option as the user wrote it.
enum Values {
    /// A size in bytes, with an optional factor of 1024: K, M, G or T, also as KiB, MB and so on.
    static func size(_ text: String, _ option: String) throws(Failure) -> UInt64 {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let suffix = text[digits.endIndex...].lowercased()
        let shifts: [String: UInt64] = ["": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40]
        let letter =
            suffix.hasSuffix("ib") && suffix.count == 3 || suffix.hasSuffix("b") && suffix.count == 2
            ? String(suffix.prefix(1)) : suffix
        guard let number = UInt64(digits), let shift = shifts[letter], number <= UInt64.max >> shift else {
            throw .usage("'\(option)' needs a size such as 64M, not '\(text)'")
        }
        return number << shift
    }

    /// A whole number of `range`.
    static func integer(_ text: String, _ option: String, in range: ClosedRange<Int>) throws(Failure) -> Int {
        guard let number = Int(text), range.contains(number) else {
            throw .usage(
                "'\(option)' needs a number from \(range.lowerBound) to \(range.upperBound), not '\(text)'")
        }
        return number
    }

    /// A user or group number.
    static func identifier(_ text: String, _ option: String) throws(Failure) -> UInt32 {
        guard let number = UInt32(text), number != .max else {
            throw .usage("'\(option)' needs a number, not '\(text)'")
        }
        return number
    }

    /// Permission bits in octal.
    static func mask(_ text: String, _ option: String) throws(Failure) -> UInt32 {
        guard let mask = UInt32(text, radix: 8), mask <= 0o777 else {
            throw .usage("'\(option)' needs permission bits in octal such as 022, not '\(text)'")
        }
        return mask
    }

    /// A time in seconds, not negative, as a decimal number; at most a year.
    static func seconds(_ text: String, _ option: String) throws(Failure) -> Double {
        guard let seconds = Double(text), seconds.isFinite, (0...31_536_000).contains(seconds) else {
            throw .usage("'\(option)' needs a number of seconds, not '\(text)'")
        }
        return seconds
    }

    /// One of the raw values of an enumeration.
    static func choice<Choice: RawRepresentable & CaseIterable>(
        _ text: String, _ option: String, of type: Choice.Type
    ) throws(Failure) -> Choice where Choice.RawValue == String {
        guard let choice = Choice(rawValue: text) else {
            let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw .usage("'\(option)' is one of \(names), not '\(text)'")
        }
        return choice
    }

    /// Text that is not empty.
    static func text(_ text: String, _ option: String) throws(Failure) -> String {
        guard !text.isEmpty else { throw .usage("'\(option)' is empty; is a variable in it not set?") }
        return text
    }

    /// A name for a file directly in the mount.
    static func fileName(_ text: String, _ option: String) throws(Failure) -> String {
        guard !text.isEmpty, !text.contains("/"), text != ".", text != "..", text != ".platter", text.utf8.count <= 255
        else { throw .usage("'\(option)' needs a plain file name, not '\(text)'") }
        return text
    }
}
