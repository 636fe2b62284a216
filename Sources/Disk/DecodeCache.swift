internal import Bytes
internal import Storage
internal import Synchronization

/// Where a compressed unit is stored: its place is its name in the cache.
struct StoredUnit: Hashable, BitwiseCopyable {
    /// The file's index in the disk's table.
    var file: UInt16
    /// The first stored byte.
    var offset: HostOffset
    /// The number of stored bytes.
    var length: UInt32
}

/// A decoded unit: memory that nobody changes any more.
final class DecodedUnit: Sendable {
    /// The decoded bytes; valid as long as the object.
    nonisolated(unsafe) let bytes: UnsafeRawBufferPointer

    /// Allocates `count` bytes and has them filled.
    init(count: Int, fill: (UnsafeMutableRawBufferPointer) throws(ImageError) -> Void) throws(ImageError) {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 64)
        bytes = UnsafeRawBufferPointer(memory)
        try fill(memory)
    }

    deinit { bytes.deallocate() }
}

/// Decoded units that reads may want again, at most so many bytes of them.
///
/// The locks are held for a lookup only, never while something is decoded. Two threads that miss the same unit at once
/// both decode it, and the second result is dropped.
final class DecodeCache: Sendable {
    private struct Shard {
        var units: [StoredUnit: (unit: DecodedUnit, used: UInt64)] = [:]
        var bytes = 0
        var clock: UInt64 = 0
    }

    private final class Locked: Sendable {
        let state = Mutex(Shard())
    }

    private let shards: [Locked]
    private let shardBytes: Int

    /// A cache of at most `limitBytes` bytes; a unit larger than its share of that is not kept.
    init(limitBytes: Int) {
        // A share holds at least two of the largest common units (2 MiB), so that small limits still cache.
        let count = max(1, min(8, limitBytes / (4 << 20)))
        shards = (0..<count).map { _ in Locked() }
        shardBytes = max(0, limitBytes) / count
    }

    /// The decoded form of `unit`, if it is here.
    func unit(_ unit: StoredUnit) -> DecodedUnit? {
        shard(of: unit).state.withLock { shard in
            guard let index = shard.units.index(forKey: unit) else { return nil }
            shard.clock += 1
            shard.units.values[index].used = shard.clock
            return shard.units.values[index].unit
        }
    }

    /// Keeps a decoded unit, and drops those that were used longest ago to make room.
    func keep(_ decoded: DecodedUnit, as unit: StoredUnit) {
        let size = decoded.bytes.count
        guard size <= shardBytes else { return }
        shard(of: unit).state.withLock { shard in
            guard shard.units[unit] == nil else { return }
            while shard.bytes + size > shardBytes, let oldest = shard.units.min(by: { $0.value.used < $1.value.used }) {
                shard.units[oldest.key] = nil
                shard.bytes -= oldest.value.unit.bytes.count
            }
            shard.clock += 1
            shard.units[unit] = (decoded, shard.clock)
            shard.bytes += size
        }
    }

    private func shard(of unit: StoredUnit) -> Locked {
        let mixed = (unit.offset.rawValue ^ UInt64(unit.file) << 48) &* 0x9E37_79B9_7F4A_7C15
        return shards[Int(mixed >> 40) % shards.count]
    }
}
