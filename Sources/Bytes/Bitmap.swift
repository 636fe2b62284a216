/// In which order the bits of a byte count.
@frozen
package enum BitOrder: BitwiseCopyable, Sendable {
    /// Bit 0 of the map is the lowest bit of byte 0 (VHDX sector bitmaps, qcow2 subcluster and dirty bitmaps).
    case lowestFirst
    /// Bit 0 of the map is the highest bit of byte 0 (VHD sector bitmaps).
    case highestFirst
}

/// Bits that follow each other and are all the same.
@frozen
package struct BitRun: Hashable, BitwiseCopyable, Sendable {
    /// What every bit of the run is.
    package var isSet: Bool
    /// How many bits there are.
    package var length: Int

    /// Makes a run of its parts.
    @inlinable
    package init(isSet: Bool, length: Int) {
        self.isSet = isSet
        self.length = length
    }
}

/// Scanning of bitmaps as they lie on disk, a word at a time.
package enum Bitmap {
    /// The bit at `start`, and how many bits from there on, below `end`, are the same.
    ///
    /// The bytes that hold the bits from `start` up to `end` must lie within `bytes`, and neither may be negative. Where
    /// `end` is not above `start`, the length is 0.
    @inlinable
    package static func run(
        _ bytes: UnsafeRawBufferPointer, from start: Int, to end: Int, order: BitOrder
    ) -> BitRun {
        guard start < end else { return BitRun(isSet: false, length: 0) }
        let byte = bytes[start >> 3]
        let mask: UInt8 = order == .lowestFirst ? 1 << UInt8(start & 7) : 0x80 >> UInt8(start & 7)
        let isSet = byte & mask != 0
        // With the bits that continue the run turned into zeros, the run ends at the first one.
        let flip: UInt64 = isSet ? .max : 0
        var position = start
        while position < end {
            let skipped = position & 7
            let ends = word(bytes, at: position >> 3, order) ^ flip
            let same =
                order == .lowestFirst
                ? (ends >> UInt64(skipped)).trailingZeroBitCount : (ends << UInt64(skipped)).leadingZeroBitCount
            guard same >= 64 - skipped else { return BitRun(isSet: isSet, length: min(position + same, end) - start) }
            position += 64 - skipped
        }
        return BitRun(isSet: isSet, length: end - start)
    }

    /// The eight bytes at `index` as a number whose bits are in the map's order; zeros follow the last byte.
    @inlinable
    static func word(_ bytes: UnsafeRawBufferPointer, at index: Int, _ order: BitOrder) -> UInt64 {
        var word: UInt64 = 0
        if bytes.count - index >= 8 {
            word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self))
        } else {
            for offset in 0..<(bytes.count - index) { word |= UInt64(bytes[index + offset]) << UInt64(offset * 8) }
        }
        return order == .lowestFirst ? word : word.byteSwapped
    }
}
