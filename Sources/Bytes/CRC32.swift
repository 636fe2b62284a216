/// CRC-32 as IEEE 802.3 and zlib have it, the checksum of GPT headers and entries.
///
/// Reflected polynomial 0xEDB88320, initial value and final XOR all ones (UEFI specification, 5.3.1).
package struct CRC32: Sendable {
    private var state: UInt32 = 0xFFFF_FFFF

    /// Starts a checksum of no bytes.
    package init() {}

    /// Returns the checksum of all bytes of `span`.
    package static func of(_ span: RawSpan) -> UInt32 {
        var sum = CRC32()
        sum.add(span, at: 0, count: span.byteCount)
        return sum.value
    }

    /// The checksum of everything added so far.
    package var value: UInt32 { ~state }

    /// Adds `count` bytes of `span` from `offset` on; both ends must lie within the span.
    package mutating func add(_ span: RawSpan, at offset: Int, count: Int) {
        let table = Self.table
        for index in offset..<(offset + count) {
            state = table[Int((state ^ UInt32(span.byte(at: index))) & 0xFF)] ^ (state >> 8)
        }
    }

    /// Adds `count` zero bytes, as a checksum field that counts as zero needs.
    package mutating func addZeros(_ count: Int) {
        let table = Self.table
        for _ in 0..<count { state = table[Int(state & 0xFF)] ^ (state >> 8) }
    }

    private static let table: [UInt32] = (0..<256).map { index in
        var crc = UInt32(index)
        for _ in 0..<8 { crc = crc & 1 == 1 ? (crc >> 1) ^ 0xEDB8_8320 : crc >> 1 }
        return crc
    }
}
