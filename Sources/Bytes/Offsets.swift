/// A position on the virtual disk, in bytes from its start.
///
/// A type of its own, so that a guest offset can never be handed to something that reads a host file.
@frozen
@usableFromInline
package struct GuestOffset: RawRepresentable, Hashable, Comparable, BitwiseCopyable, Sendable {
    /// Bytes from the start of the virtual disk.
    @usableFromInline
    package var rawValue: UInt64

    /// Makes an offset of `rawValue` bytes.
    @inlinable
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Makes an offset of `rawValue` bytes.
    @inlinable
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Orders offsets from the start of the disk to its end.
    @inlinable
    package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// A position in a host file, in bytes from its start.
@frozen
@usableFromInline
package struct HostOffset: RawRepresentable, Hashable, Comparable, BitwiseCopyable, Sendable {
    /// Bytes from the start of the host file.
    @usableFromInline
    package var rawValue: UInt64

    /// Makes an offset of `rawValue` bytes.
    @inlinable
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Makes an offset of `rawValue` bytes.
    @inlinable
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Orders offsets from the start of the file to its end.
    @inlinable
    package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }

    /// The offset `bytes` further on, or nil where that does not fit 64 bits.
    @inlinable
    package func advanced(by bytes: UInt64) -> HostOffset? {
        let (sum, overflow) = rawValue.addingReportingOverflow(bytes)
        return overflow ? nil : HostOffset(sum)
    }
}
