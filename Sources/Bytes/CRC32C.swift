/// CRC-32C (Castagnoli), the checksum of VHDX headers, region tables and log entries.
///
/// Reflected polynomial 0x82F63B78, initial value and final XOR all ones (RFC 3720, appendix B.4).
package struct CRC32C: Sendable {
    private var state: UInt32 = 0xFFFF_FFFF

    /// Starts a checksum of no bytes.
    package init() {}

    /// The checksum of everything added so far.
    package var value: UInt32 { ~state }

    /// Adds `count` bytes of `span` from `offset` on; both ends must lie within the span.
    package mutating func add(_ span: RawSpan, at offset: Int, count: Int) {
        var position = offset
        let end = offset + count
        let tables = Self.tables
        tables.withUnsafeBufferPointer { table in
            var crc = state
            // Eight bytes a step: one lookup a byte, with no dependency between the lookups.
            while end - position >= 8 {
                let word: UInt64 = span.little(at: position) ^ UInt64(crc)
                crc = 0
                for index in 0..<8 {
                    let octet = Int(truncatingIfNeeded: word >> UInt64(index * 8)) & 0xFF
                    crc ^= table[(7 - index) * 256 + octet]
                }
                position += 8
            }
            while position < end {
                crc = table[Int((crc ^ UInt32(span.byte(at: position))) & 0xFF)] ^ (crc >> 8)
                position += 1
            }
            state = crc
        }
    }

    /// Adds `count` zero bytes, as a checksum field that counts as zero needs.
    package mutating func addZeros(_ count: Int) {
        let tables = Self.tables
        for _ in 0..<count { state = tables[Int(state & 0xFF)] ^ (state >> 8) }
    }

    /// The checksum of a whole structure whose own checksum field, four bytes at `field`, counts as zero.
    package static func of(_ span: RawSpan, zeroing field: Int) -> UInt32 {
        var crc = CRC32C()
        crc.add(span, at: 0, count: field)
        crc.addZeros(4)
        crc.add(span, at: field + 4, count: span.byteCount - field - 4)
        return crc.value
    }

    private static let tables: [UInt32] = {
        var table = [UInt32](repeating: 0, count: 8 * 256)
        for index in 0..<256 {
            var crc = UInt32(index)
            for _ in 0..<8 { crc = crc & 1 == 1 ? (crc >> 1) ^ 0x82F6_3B78 : crc >> 1 }
            table[index] = crc
        }
        for slice in 1..<8 {
            for index in 0..<256 {
                let previous = table[(slice - 1) * 256 + index]
                table[slice * 256 + index] = table[Int(previous & 0xFF)] ^ (previous >> 8)
            }
        }
        return table
    }()
}
