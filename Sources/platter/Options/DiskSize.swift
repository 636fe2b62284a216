/// The size of a disk as qemu-img takes it.
enum DiskSize {
    /// Powers of 1024 by their letter.
    private static let shifts: [Character: UInt64] = ["b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60]

    /// The bytes that "512", "10G", "1.5T" or "64MiB" mean; nil for what is no size, and for more than fits. A fraction
    /// needs a letter, and what is left below one byte is dropped.
    static func bytes(_ text: String) -> UInt64? {
        let digits = text.prefix(while: isDigit)
        var rest = text[digits.endIndex...]
        guard !digits.isEmpty, let whole = UInt64(digits) else { return nil }
        var fraction: Substring = ""
        if rest.first == "." {
            fraction = rest.dropFirst().prefix(while: isDigit)
            rest = rest[fraction.endIndex...]
            guard !fraction.isEmpty, !rest.isEmpty else { return nil }
        }
        guard let shift = shift(rest), fraction.isEmpty || shift > 0, whole <= UInt64.max >> shift else { return nil }
        let (sum, overflow) = (whole << shift).addingReportingOverflow(part(fraction, shift: shift))
        return overflow ? nil : sum
    }

    /// What the digits behind the point stand for; those beyond the eighteenth are too small to matter.
    private static func part(_ digits: Substring, shift: UInt64) -> UInt64 {
        var numerator: UInt128 = 0
        var denominator: UInt128 = 1
        for digit in digits.prefix(18) {
            numerator = numerator * 10 + UInt128(digit.wholeNumberValue ?? 0)
            denominator *= 10
        }
        return UInt64(truncatingIfNeeded: (numerator << UInt128(shift)) / denominator)
    }

    private static func shift(_ suffix: Substring) -> UInt64? {
        guard let letter = suffix.lowercased().first else { return 0 }
        let tail = suffix.lowercased().dropFirst()
        guard tail.isEmpty || letter != "b" && (tail == "b" || tail == "ib") else { return nil }
        return shifts[letter]
    }

    private static func isDigit(_ character: Character) -> Bool { character.isASCII && character.isNumber }
}
