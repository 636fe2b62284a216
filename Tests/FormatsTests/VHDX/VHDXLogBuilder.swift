import Storage
import TestSupport

/// Makes log entries and puts them into the ring of a `VHDXBuilder`'s file.
struct VHDXLogBuilder {
    enum Change {
        /// A page of 4 KiB.
        case page(UInt64, [UInt8])
        /// A range of zeros.
        case zeros(UInt64, UInt64)
    }

    let storage: SparseMemoryStorage
    let length: UInt64
    var guid = VHDXBuilder.logGUID
    var offset = VHDXBuilder.mib

    /// Turns an image's log on and begins to fill it.
    init(_ builder: inout VHDXBuilder) {
        builder.logGUID = VHDXBuilder.logGUID
        storage = builder.storage
        length = builder.logLength
    }

    /// Writes an entry at `position` of the ring, wrapping at its end, and returns the position after it.
    @discardableResult
    func put(
        _ changes: [Change], at position: UInt64, sequence: UInt64, tail: UInt64, flushed: UInt64 = 0,
        last: UInt64 = 0, padding: Int = 0, damage: ((inout [UInt8]) -> Void)? = nil
    ) -> UInt64 {
        var bytes = entry(changes, sequence: sequence, tail: tail, flushed: flushed, last: last, padding: padding)
        damage?(&bytes)
        for start in stride(from: 0, to: bytes.count, by: 4096) {
            storage.patch(Array(bytes[start..<(start + 4096)]), at: offset + (position + UInt64(start)) % length)
        }
        return (position + UInt64(bytes.count)) % length
    }

    private func entry(
        _ changes: [Change], sequence: UInt64, tail: UInt64, flushed: UInt64, last: UInt64, padding: Int
    ) -> [UInt8] {
        let little = (VHDXBuilder.little(sequence), VHDXBuilder.little(flushed), VHDXBuilder.little(last))
        var descriptors: [UInt8] = []
        var data: [UInt8] = []
        for change in changes {
            switch change {
            case .page(let offset, let page):
                descriptors += Array("desc".utf8) + page[4092...] + page[..<8] + VHDXBuilder.little(offset) + little.0
                data += Array("data".utf8) + little.0[4...] + page[8..<4092] + little.0[..<4]
            case .zeros(let offset, let length):
                descriptors += Array("zero".utf8) + [0, 0, 0, 0] + VHDXBuilder.little(length)
                descriptors += VHDXBuilder.little(offset) + little.0
            }
        }
        descriptors += [UInt8](repeating: 0, count: (4096 - (64 + descriptors.count) % 4096) % 4096)
        let total = 64 + descriptors.count + data.count + padding * 4096
        var bytes = Array("loge".utf8) + [0, 0, 0, 0] + VHDXBuilder.little(UInt32(total))
        bytes += VHDXBuilder.little(UInt32(tail)) + little.0 + VHDXBuilder.little(UInt32(changes.count)) + [0, 0, 0, 0]
        bytes += VHDXBuilder.guid(guid) + little.1 + little.2 + descriptors + data
        bytes += [UInt8](repeating: 0xEE, count: padding * 4096)
        return VHDXBuilder.sealed(bytes)
    }

    /// A page whose bytes tell which one it is.
    static func page(_ seed: UInt64) -> [UInt8] {
        var random = SeededRandom(seed: seed)
        return random.bytes(4096)
    }
}
