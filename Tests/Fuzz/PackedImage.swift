import Bytes
import Storage
import TestSupport

/// A sparse image as a short string, so that the fuzzer spends its mutations on metadata and not on megabytes of holes.
///
/// The string is one byte of flags, the file's size in units of 512 bytes plus a remainder (four bytes and two), and
/// then chunks: the offset in units of 512 bytes (four bytes), the length (two bytes) and the bytes. All numbers are
/// little-endian; whatever is cut short is taken as far as it goes.
enum PackedImage {
    /// Whether checksums are made right after unpacking: otherwise hardly any mutation gets past them.
    static let repairsChecksums: UInt8 = 1
    private static let sector = 512
    private static let contentLimit = 96 << 10

    /// The image that `input` stands for, and its flags.
    static func unpack(_ input: UnsafeRawBufferPointer) -> (storage: SparseMemoryStorage, flags: UInt8) {
        func number(_ offset: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { $0 | UInt64(offset + $1 < input.count ? input[offset + $1] : 0) << UInt64($1 * 8) }
        }
        let size = number(1, 4) * UInt64(sector) + number(5, 2) % UInt64(sector)
        let storage = SparseMemoryStorage(size: size, name: "fuzz")
        var position = 7
        while position + 6 <= input.count {
            let offset = number(position, 4) * UInt64(sector)
            let length = Int(number(position + 4, 2))
            position += 6
            let end = min(position + length, input.count)
            let room = offset < size ? Int(min(UInt64(end - position), size - offset)) : 0
            if room > 0 { storage.patch(Array(input[position..<(position + room)]), at: offset) }
            position = end
        }
        return (storage, input.isEmpty ? 0 : input[0])
    }

    /// The string for a real image: its sectors that are not zero, from the front, and its last 1024 bytes.
    static func pack(_ image: UnsafeRawBufferPointer, flags: UInt8) -> [UInt8] {
        var packed = [flags] + bytes(UInt64(image.count / sector), 4) + bytes(UInt64(image.count % sector), 2)
        let tail = max(0, image.count - 1024) / sector * sector
        var start = 0
        while start < tail, packed.count < contentLimit {
            guard !isZero(image, start) else {
                start += sector
                continue
            }
            var end = start
            while end < tail, end - start < 32 << 10, !isZero(image, end) { end += sector }
            packed += chunk(image, start..<end)
            start = end
        }
        return packed + chunk(image, tail..<image.count)
    }

    private static func isZero(_ image: UnsafeRawBufferPointer, _ start: Int) -> Bool {
        image[start..<min(start + sector, image.count)].allSatisfy { $0 == 0 }
    }

    private static func chunk(_ image: UnsafeRawBufferPointer, _ range: Range<Int>) -> [UInt8] {
        bytes(UInt64(range.lowerBound / sector), 4) + bytes(UInt64(range.count), 2) + Array(image[range])
    }

    private static func bytes(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }
}

/// Makes the checksums of a damaged image right, wherever a structure can be recognised.
enum Checksums {
    static func repair(_ storage: SparseMemoryStorage) {
        for header in [0x10000, 0x20000] as [UInt64] {
            fix(storage, at: header, count: 4096, field: 4, "head")
            repairLog(storage, header)
        }
        for table in [0x30000, 0x40000] as [UInt64] { fix(storage, at: table, count: 65536, field: 4, "regi") }
        if storage.size >= 512 { repairVHD(storage, footer: storage.size - 512) }
        repairVHD(storage, footer: 0)
    }

    /// The entries of the log that a header names ([MS-VHDX] 2.3), as far as they do not wrap around.
    private static func repairLog(_ storage: SparseMemoryStorage, _ header: UInt64) {
        guard let fields = try? storage.bytes(at: HostOffset(header + 68), count: 12) else { return }
        let length = UInt64(fields.span.bytes.little(UInt32.self, at: 0))
        let start = fields.span.bytes.little(UInt64.self, at: 4)
        guard start < storage.size else { return }
        for offset in stride(from: start, to: start + min(length, 1 << 20, storage.size - start), by: 4096) {
            guard let entry = try? storage.bytes(at: HostOffset(offset), count: 12) else { return }
            let count = Int(entry.span.bytes.little(UInt32.self, at: 8))
            if (64...(1 << 18)).contains(count) { fix(storage, at: offset, count: count, field: 4, "loge") }
        }
    }

    private static func fix(
        _ storage: SparseMemoryStorage, at offset: UInt64, count: Int, field: Int, _ signature: StaticString
    ) {
        guard let bytes = try? storage.bytes(at: HostOffset(offset), count: count),
            bytes.span.bytes.hasASCII(signature)
        else { return }
        let sum = CRC32C.of(bytes.span.bytes, zeroing: field)
        storage.patch((0..<4).map { UInt8(truncatingIfNeeded: sum >> UInt32($0 * 8)) }, at: offset + UInt64(field))
    }

    private static func repairVHD(_ storage: SparseMemoryStorage, footer: UInt64) {
        sum(storage, at: footer, count: 512, field: 64, "conectix")
        guard let offset = try? storage.bytes(at: HostOffset(footer + 16), count: 8) else { return }
        let header = offset.span.bytes.big(UInt64.self, at: 0)
        if storage.holds(HostOffset(header), count: 1024) {
            sum(storage, at: header, count: 1024, field: 36, "cxsparse")
        }
    }

    private static func sum(
        _ storage: SparseMemoryStorage, at offset: UInt64, count: Int, field: Int, _ signature: StaticString
    ) {
        guard let bytes = try? storage.bytes(at: HostOffset(offset), count: count),
            bytes.span.bytes.hasASCII(signature)
        else { return }
        let sum = OnesComplement.of(bytes.span.bytes, zeroing: field)
        storage.patch((0..<4).map { UInt8(truncatingIfNeeded: sum >> UInt32(24 - $0 * 8)) }, at: offset + UInt64(field))
    }
}
