/// A 16-byte identifier, kept as the bytes on disk.
///
/// VHDX stores the Microsoft mixed-endian form ([MS-VHDX] 1.3: the first three fields little-endian); VHD stores
/// 16 opaque bytes that are printed in order. The two differ only when printed or parsed.
package struct GUID: Hashable, BitwiseCopyable, Sendable {
    /// Bytes 0–7 as they lie on disk, first byte lowest.
    package let low: UInt64
    /// Bytes 8–15 as they lie on disk, first byte lowest.
    package let high: UInt64

    /// The identifier of 16 zero bytes.
    package static let zero = GUID(low: 0, high: 0)

    /// Makes an identifier from its two halves, each with the first byte lowest.
    package init(low: UInt64, high: UInt64) {
        self.low = low
        self.high = high
    }

    /// Reads 16 bytes at `offset`, which must lie within `span`.
    package init(_ span: RawSpan, at offset: Int) {
        low = span.little(at: offset)
        high = span.little(at: offset + 8)
    }

    /// The byte at `index` (0–15) as it lies on disk.
    package func byte(_ index: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: (index < 8 ? low : high) >> UInt64((index & 7) * 8))
    }

    /// Parses `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, with or without braces and in any case, as the Microsoft
    /// mixed-endian form; nil where the text is anything else.
    package init?(microsoft text: some StringProtocol) {
        var digits: [UInt8] = []
        var characters = Array(text.utf8)
        if characters.first == UInt8(ascii: "{"), characters.last == UInt8(ascii: "}"), characters.count >= 2 {
            characters = Array(characters[1..<(characters.count - 1)])
        }
        guard characters.count == 36 else { return nil }
        for (index, character) in characters.enumerated() {
            if [8, 13, 18, 23].contains(index) {
                guard character == UInt8(ascii: "-") else { return nil }
            } else {
                guard let digit = Character(UnicodeScalar(character)).hexDigitValue else { return nil }
                digits.append(UInt8(digit))
            }
        }
        let bytes = (0..<16).map { digits[$0 * 2] << 4 | digits[$0 * 2 + 1] }
        let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
        var low: UInt64 = 0
        var high: UInt64 = 0
        for index in 0..<8 {
            low |= UInt64(bytes[order[index]]) << UInt64(index * 8)
            high |= UInt64(bytes[order[index + 8]]) << UInt64(index * 8)
        }
        self.init(low: low, high: high)
    }

    /// The text of the Microsoft mixed-endian form, lower case, without braces.
    package var microsoftText: String {
        text(order: [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15])
    }

    /// The text of the bytes in order, lower case, as VHD tools print a UniqueId.
    package var plainText: String { text(order: Array(0..<16)) }

    private func text(order: [Int]) -> String {
        var result = ""
        for (position, index) in order.enumerated() {
            if [4, 6, 8, 10].contains(position) { result += "-" }
            let value = byte(index)
            result += String(value >> 4, radix: 16) + String(value & 15, radix: 16)
        }
        return result
    }
}
