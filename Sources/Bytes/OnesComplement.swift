/// The checksum of VHD footers and dynamic headers: the one's complement of the sum of all bytes, with the
/// checksum field counted as zero (VHD specification 1.0, "Checksum").
package enum OnesComplement {
    /// The checksum of `span` whose own checksum field, four bytes at `field`, counts as zero.
    package static func of(_ span: RawSpan, zeroing field: Int) -> UInt32 {
        var sum: UInt32 = 0
        for index in 0..<span.byteCount where index < field || index >= field + 4 {
            sum &+= UInt32(span.byte(at: index))
        }
        return ~sum
    }
}
