/// A half-open range of the virtual disk, in bytes.
///
/// The end is never below the start, and neither can overflow: every initialiser checks or clamps.
@frozen
@usableFromInline
package struct ByteRange: Hashable, BitwiseCopyable, Sendable {
    /// The first byte.
    @usableFromInline
    package let start: GuestOffset
    /// The byte after the last one.
    @usableFromInline
    package let end: GuestOffset

    /// The bytes from `lower` up to, not including, `upper`; empty at `lower` when `upper` is below it.
    @inlinable
    package init(_ lower: UInt64, to upper: UInt64) {
        start = GuestOffset(lower)
        end = GuestOffset(Swift.max(lower, upper))
    }

    /// `length` bytes from `lower` on; nil where the end does not fit 64 bits.
    @inlinable
    package init?(at lower: UInt64, length: UInt64) {
        let (upper, overflow) = lower.addingReportingOverflow(length)
        guard !overflow else { return nil }
        start = GuestOffset(lower)
        end = GuestOffset(upper)
    }

    /// The first byte, as a plain number.
    @inlinable
    package var lower: UInt64 { start.rawValue }

    /// The byte after the last one, as a plain number.
    @inlinable
    package var upper: UInt64 { end.rawValue }

    /// The number of bytes.
    @inlinable
    package var length: UInt64 { end.rawValue - start.rawValue }

    /// Whether there are no bytes in the range.
    @inlinable
    package var isEmpty: Bool { start == end }

    /// The part of this range below `limit` bytes.
    @inlinable
    package func clipped(to limit: UInt64) -> ByteRange {
        ByteRange(Swift.min(lower, limit), to: Swift.min(upper, limit))
    }

    /// The part of this range that begins `bytes` after its start; empty when that is past the end.
    @inlinable
    package func dropping(first bytes: UInt64) -> ByteRange {
        ByteRange(lower + Swift.min(bytes, length), to: upper)
    }

    /// The first `bytes` bytes of this range, or all of it.
    @inlinable
    package func keeping(first bytes: UInt64) -> ByteRange {
        ByteRange(lower, to: lower + Swift.min(bytes, length))
    }
}

extension UInt64 {
    /// The sum, or nil where it does not fit: for numbers that an image supplies.
    @inlinable
    package func checkedAdding(_ other: UInt64) -> UInt64? {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? nil : sum
    }

    /// The product, or nil where it does not fit: for numbers that an image supplies.
    @inlinable
    package func checkedMultiplying(by other: UInt64) -> UInt64? {
        let (product, overflow) = multipliedReportingOverflow(by: other)
        return overflow ? nil : product
    }

    /// The smallest multiple of `unit` (a power of two, at least 1) not below this number, or nil where it does not fit.
    @inlinable
    package func roundedUp(toPowerOfTwo unit: UInt64) -> UInt64? {
        guard let sum = checkedAdding(unit - 1) else { return nil }
        return sum & ~(unit - 1)
    }

    /// The quotient rounded up; `divisor` must not be zero.
    @inlinable
    package func dividedRoundingUp(by divisor: UInt64) -> UInt64 {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder == 0 ? quotient : quotient + 1
    }

    /// Whether exactly one bit is set.
    @inlinable
    package var isPowerOfTwo: Bool { nonzeroBitCount == 1 }
}
