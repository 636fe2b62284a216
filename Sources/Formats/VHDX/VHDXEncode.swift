internal import Bytes
internal import Storage

/// Structures as the bytes that go to the disk: everything little-endian, checksums in bytes 4 to 7.
enum VHDXEncode {
    /// Puts an integer at byte `offset`; it must lie within `bytes`.
    static func put(_ value: some FixedWidthInteger, into bytes: inout [UInt8], at offset: Int) {
        var rest = value.littleEndian
        withUnsafeBytes(of: &rest) { bytes.replaceSubrange(offset..<(offset + $0.count), with: $0) }
    }

    /// Puts an identifier at byte `offset`; it must lie within `bytes`.
    static func put(_ guid: GUID, into bytes: inout [UInt8], at offset: Int) {
        put(guid.low, into: &bytes, at: offset)
        put(guid.high, into: &bytes, at: offset + 8)
    }

    /// Puts ASCII text at byte `offset`; it must lie within `bytes`.
    static func put(_ text: StaticString, into bytes: inout [UInt8], at offset: Int) {
        for index in 0..<text.utf8CodeUnitCount { bytes[offset + index] = text.utf8Start[index] }
    }

    /// Sets the checksum that a header, a region table or a log entry needs, all its other bytes being there.
    static func seal(_ bytes: inout [UInt8]) {
        put(CRC32C.of(bytes.span.bytes, zeroing: 4), into: &bytes, at: 4)
    }

    /// A new random identifier (RFC 9562, version 4).
    static func randomGUID() -> GUID {
        var random = SystemRandomNumberGenerator()
        // The version is the upper half of the third field's last byte, the variant the top bits of byte 8.
        let low = random.next() & 0x0FFF_FFFF_FFFF_FFFF | 0x4000_0000_0000_0000
        let high = random.next() & ~0xC0 | 0x80
        return GUID(low: low, high: high)
    }

    /// The first header of a file: 4 KiB, with an empty log of `logLength` bytes at `logOffset`.
    static func header(
        sequence: UInt64, fileWriteGUID: GUID, dataWriteGUID: GUID, logOffset: UInt64, logLength: UInt32
    ) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: VHDXHeader.byteCount)
        put("head", into: &bytes, at: 0)
        put(sequence, into: &bytes, at: 8)
        put(fileWriteGUID, into: &bytes, at: 16)
        put(dataWriteGUID, into: &bytes, at: 32)
        put(UInt16(1), into: &bytes, at: 66)
        put(logLength, into: &bytes, at: 68)
        put(logOffset, into: &bytes, at: 72)
        seal(&bytes)
        return bytes
    }

    /// A region table of the two regions that every file has.
    static func regionTable(table: VHDXSpan, metadata: VHDXSpan) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: VHDXRegions.bytes)
        put("regi", into: &bytes, at: 0)
        put(UInt32(2), into: &bytes, at: 8)
        for (index, (guid, span)) in [(VHDXRegions.tableGUID, table), (VHDXRegions.metadataGUID, metadata)].enumerated()
        {
            put(guid, into: &bytes, at: 16 + index * 32)
            put(span.offset, into: &bytes, at: 32 + index * 32)
            put(UInt32(truncatingIfNeeded: span.length), into: &bytes, at: 40 + index * 32)
            put(UInt32(1), into: &bytes, at: 44 + index * 32)
        }
        seal(&bytes)
        return bytes
    }
}
