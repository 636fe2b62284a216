/// Unaligned loads of both byte orders.
///
/// A parser checks the length of a structure once and throws with its offset; the trap of an offset past the
/// end here is the net below that, and reaching it from an image is a bug that the fuzzers look for.
extension RawSpan {
    /// The integer stored little-endian at byte `offset`; `offset` + its size must lie within the span.
    @inlinable
    package func little<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type = Value.self, at offset: Int
    ) -> Value {
        Value(littleEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// The integer stored big-endian at byte `offset`; `offset` + its size must lie within the span.
    @inlinable
    package func big<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type = Value.self, at offset: Int
    ) -> Value {
        Value(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// The byte at `offset`, which must lie within the span.
    @inlinable
    package func byte(at offset: Int) -> UInt8 {
        unsafeLoad(fromByteOffset: offset, as: UInt8.self)
    }

    /// A copy of `count` bytes from `offset` on; both ends must lie within the span.
    package func copy(at offset: Int, count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            for index in 0..<count { buffer.initializeElement(at: index, to: byte(at: offset + index)) }
            initialized = count
        }
    }

    /// Whether the bytes at `offset` are those of `text` (ASCII); false where the span is too short.
    package func hasASCII(_ text: StaticString, at offset: Int = 0) -> Bool {
        guard offset >= 0, byteCount - offset >= text.utf8CodeUnitCount else { return false }
        for index in 0..<text.utf8CodeUnitCount where byte(at: offset + index) != text.utf8Start[index] {
            return false
        }
        return true
    }

    /// Whether every byte from `offset` on, `count` of them, is zero; both ends must lie within the span.
    package func isZero(at offset: Int, count: Int) -> Bool {
        for index in offset..<(offset + count) where byte(at: index) != 0 { return false }
        return true
    }
}
