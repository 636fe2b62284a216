package import Bytes

/// A GPT made of bytes: right, until a test damages it.
package struct GPTBuilder {
    /// The GUID of "Linux filesystem".
    package static let linux = GUID(microsoft: "0fc63daf-8483-4772-8e79-3d69d8477de4") ?? .zero

    /// The used entries: slot, first and last sector.
    package var entries: [(slot: Int, first: UInt64, last: UInt64)]
    /// The size of the disk in sectors.
    package var sectors = 2048
    /// The size of a sector in bytes.
    package var sector = 512
    /// The size of an entry in bytes.
    package var entryBytes = 128
    /// How many entries the array has.
    package var count = 128
    /// The four slots of the first sector; a protective record where it is empty.
    package var slots: [[UInt8]] = []
    /// The size in sectors that the table is made for, where that is not the disk's.
    package var madeFor: Int?

    /// A table with `entries`.
    package init(_ entries: [(slot: Int, first: UInt64, last: UInt64)]) { self.entries = entries }

    /// The sector of the backup's header.
    package var backup: Int { (madeFor ?? sectors) - 1 }

    private var arraySectors: Int { (count * entryBytes + sector - 1) / sector }

    /// The bytes of the disk.
    package func build() -> [UInt8] {
        var disk = [UInt8](repeating: 0, count: sectors * sector)
        disk.put(slots: slots.isEmpty ? [mbrSlot(0xEE, 1, UInt32(backup))] : slots, at: 0)
        let array = array()
        for (place, other, start) in [(1, backup, 2), (backup, 1, backup - arraySectors)] where place < sectors {
            disk.put(array, at: start * sector)
            disk.put(header(array, at: place, other: other, array: start), at: place * sector)
        }
        return disk
    }

    private func array() -> [UInt8] {
        var array = [UInt8](repeating: 0, count: count * entryBytes)
        for (slot, first, last) in entries {
            let at = (slot - 1) * entryBytes
            array.put(little: Self.linux.low, at: at)
            array.put(little: Self.linux.high, at: at + 8)
            array.put(little: UInt64(slot), at: at + 16)
            array.put(little: first, at: at + 32)
            array.put(little: last, at: at + 40)
            array.put(Array("n\0a\0m\0e\0".utf8), at: at + 56)
        }
        return array
    }

    private func header(_ array: [UInt8], at place: Int, other: Int, array start: Int) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 92)
        header.put(Array("EFI PART".utf8), at: 0)
        header.put(little: UInt32(0x10000), at: 8)
        header.put(little: UInt32(92), at: 12)
        header.put(little: UInt64(place), at: 24)
        header.put(little: UInt64(other), at: 32)
        header.put(little: UInt64(2 + arraySectors), at: 40)
        header.put(little: UInt64(backup - arraySectors - 1), at: 48)
        header.put([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], at: 56)
        header.put(little: UInt64(start), at: 72)
        header.put(little: UInt32(count), at: 80)
        header.put(little: UInt32(entryBytes), at: 84)
        header.put(little: CRC32.of(array.span.bytes), at: 88)
        header.put(little: CRC32.of(header.span.bytes), at: 16)
        return header
    }

    /// Changes a field of the header in sector `place` of a disk of this sector size, and makes its checksum right again.
    package func patch(_ value: some FixedWidthInteger, at offset: Int, place: Int, of disk: inout [UInt8]) {
        let start = place * sector
        disk.put(little: value, at: start + offset)
        disk.put(little: UInt32(0), at: start + 16)
        disk.put(little: CRC32.of(Array(disk[start..<(start + 92)]).span.bytes), at: start + 16)
    }
}

/// A slot of an MBR or of an extended boot record: type, first sector and number of sectors.
package func mbrSlot(_ type: UInt8, _ first: UInt32, _ count: UInt32, status: UInt8 = 0) -> [UInt8] {
    var slot = [UInt8](repeating: 0, count: 16)
    slot[0] = status
    slot[4] = type
    slot.put(little: first, at: 8)
    slot.put(little: count, at: 12)
    return slot
}

extension [UInt8] {
    /// Replaces bytes from `offset` on.
    package mutating func put(_ bytes: [UInt8], at offset: Int) {
        replaceSubrange(offset..<(offset + bytes.count), with: bytes)
    }

    /// Stores an integer little-endian.
    package mutating func put(little value: some FixedWidthInteger, at offset: Int) {
        Swift.withUnsafeBytes(of: value.littleEndian) { put(Array($0), at: offset) }
    }

    /// Puts up to four slots and the signature into the sector that begins at `offset`.
    package mutating func put(slots: [[UInt8]], at offset: Int) {
        for (index, slot) in slots.enumerated() { put(slot, at: offset + 446 + index * 16) }
        put([0x55, 0xAA], at: offset + 510)
    }
}
