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
        /// A unit, and whether it was wanted since it came in or was last passed over.
        var units: [StoredUnit: (unit: DecodedUnit, isWanted: Bool)] = [:]
        /// The units in the order in which they are considered for dropping, from `next` on.
        var queue: [StoredUnit] = []
        var next = 0
        var bytes = 0

        /// Drops units until `size` more bytes fit into `limit`: those first that came first, but one that was wanted
        /// meanwhile gets a second turn. A constant number of steps for each unit dropped, on average.
        mutating func makeRoom(for size: Int, limit: Int) {
            while bytes + size > limit, next < queue.count {
                let candidate = queue[next]
                next += 1
                if units[candidate]?.isWanted == true {
                    units[candidate]?.isWanted = false
                    queue.append(candidate)
                } else if let dropped = units.removeValue(forKey: candidate) {
                    bytes -= dropped.unit.bytes.count
                }
            }
            if next > 64, next * 2 > queue.count {
                queue.removeFirst(next)
                next = 0
            }
        }
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
            shard.units.values[index].isWanted = true
            return shard.units.values[index].unit
        }
    }

    /// Keeps a decoded unit, and drops others to make room.
    func keep(_ decoded: DecodedUnit, as unit: StoredUnit) {
        let size = decoded.bytes.count
        guard size <= shardBytes else { return }
        shard(of: unit).state.withLock { shard in
            guard shard.units[unit] == nil else { return }
            shard.makeRoom(for: size, limit: shardBytes)
            shard.units[unit] = (decoded, false)
            shard.queue.append(unit)
            shard.bytes += size
        }
    }

    /// Drops the units that lie in `length` bytes from `start` on of a file: the place may hold something else from now on.
    /// Looks at every unit that is kept.
    func drop(file: UInt16, from start: HostOffset, length: UInt64) {
        let end = start.advanced(by: length) ?? HostOffset(.max)
        for locked in shards {
            locked.state.withLock { shard in
                let stale = shard.units.keys.filter { unit in
                    let unitEnd = unit.offset.advanced(by: UInt64(unit.length)) ?? HostOffset(.max)
                    return unit.file == file && unit.offset < end && start < unitEnd
                }
                guard !stale.isEmpty else { return }
                for unit in stale {
                    if let dropped = shard.units.removeValue(forKey: unit) { shard.bytes -= dropped.unit.bytes.count }
                }
                // A unit that comes again is considered once.
                let pending = shard.queue[shard.next...].filter { shard.units[$0] != nil }
                shard.queue = Array(pending)
                shard.next = 0
            }
        }
    }

    private func shard(of unit: StoredUnit) -> Locked {
        let mixed = (unit.offset.rawValue ^ UInt64(unit.file) << 48) &* 0x9E37_79B9_7F4A_7C15
        return shards[Int(mixed >> 40) % shards.count]
    }
}
