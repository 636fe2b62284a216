internal import Bytes
internal import Storage

/// Reference counts: two levels, widths of 1 to 64 bits, big-endian, and below a byte the lowest bits first (QEMU,
/// docs/interop/qcow2, "Host cluster management").
extension QCOW2.WriteState {
    private var order: UInt64 { UInt64(header.refcountOrder) }

    /// A refcount block describes 2 to this power clusters.
    var blockBits: UInt64 { clusterBits + 3 - order }

    /// The most entries of the refcount table that QEMU takes: 8 MiB of them.
    static var mostBlocks: Int { 1 << 20 }

    // MARK: - Looking

    /// The count of `cluster`; 0 where no block describes it. Throws `.io` and `.corrupt`.
    func refcount(of cluster: UInt64) throws(ImageError) -> UInt64 {
        let block = cluster >> blockBits
        guard block < UInt64(blocks.count), blocks[Int(block)] != 0 else { return 0 }
        let bit = (cluster & (1 << blockBits - 1)) << order
        let width = max(1, 1 << order / 8)
        let raw = try bytes(at: blocks[Int(block)] + bit >> 3, count: width)
        return Self.count(in: raw, bit: Int(bit & 7), order: order)
    }

    /// The count of `cluster` without the references that were dropped and are still in it. Throws like `refcount`.
    func references(to cluster: UInt64) throws(ImageError) -> UInt64 {
        let count = try refcount(of: cluster)
        let gone = dropped[cluster] ?? 0
        return count > gone ? count - gone : 0
    }

    /// The count at `bit` of `raw`: below a byte the bits from there on, else all of the bytes.
    private static func count(in raw: some Sequence<UInt8>, bit: Int, order: UInt64) -> UInt64 {
        var value: UInt64 = 0
        for byte in raw { value = value << 8 | UInt64(byte) }
        guard order < 3 else { return value }
        return value >> UInt64(bit) & (1 << (1 << order) - 1)
    }

    /// The first cluster from `first` on, below `end`, that is free, or, where `isFree` says false, that is not; `end` where
    /// there is none. Blocks are read in pieces of a page. Throws `.io` and `.corrupt`.
    func firstCluster(from first: UInt64, to end: UInt64, isFree: Bool) throws(ImageError) -> UInt64 {
        var cluster = first
        while cluster < end {
            let block = cluster >> blockBits
            let blockEnd = min(end, (block + 1) << blockBits)
            guard block < UInt64(blocks.count), blocks[Int(block)] != 0 else {
                if isFree { return cluster }
                // No block behind the last one: what follows is free to the end.
                cluster = block < UInt64(blocks.count) ? blockEnd : end
                continue
            }
            let bit = (cluster & (1 << blockBits - 1)) << order
            let offset = blocks[Int(block)] + bit >> 3
            let pageBits = (4096 - offset & 4095) << 3
            let inPiece = min(blockEnd - cluster, (pageBits - bit & 7) >> order)
            let index = try firstIndex(at: offset, bit: Int(bit & 7), count: Int(inPiece), isFree: isFree)
            if let index { return cluster + UInt64(index) }
            cluster += inPiece
        }
        return end
    }

    /// The first of `count` counts, within a page from `bit` of the byte at `offset` on, that is free or not.
    private func firstIndex(
        at offset: UInt64, bit: Int, count: Int, isFree: Bool
    ) throws(ImageError) -> Int? {
        let byteCount = (bit + count << Int(order) + 7) / 8
        return try withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 8) {
            buffer throws(ImageError) -> Int? in
            try store.read(at: HostOffset(offset), into: buffer)
            let bytes = UnsafeRawBufferPointer(buffer)
            // Plain loops: this is where allocation spends its time.
            var index = 0
            switch order {
            case 4:
                while index < count, (bytes.load(fromByteOffset: index * 2, as: UInt16.self) == 0) != isFree {
                    index += 1
                }
            case 5:
                while index < count, (bytes.load(fromByteOffset: index * 4, as: UInt32.self) == 0) != isFree {
                    index += 1
                }
            case 6:
                while index < count, (bytes.load(fromByteOffset: index * 8, as: UInt64.self) == 0) != isFree {
                    index += 1
                }
            default:
                let mask = UInt8(truncatingIfNeeded: 1 << (1 << order) - 1)
                var position = bit
                while index < count, (bytes[position >> 3] >> UInt8(position & 7) & mask == 0) != isFree {
                    index += 1
                    position += 1 << Int(order)
                }
            }
            return index < count ? index : nil
        }
    }

    // MARK: - Changing

    /// What becomes of a count.
    enum CountChange {
        /// It becomes 1: the cluster was free.
        case one
        /// One less; 0 stays 0.
        case less
    }

    /// Changes the counts of `count` clusters from `first` on, all described by one block that exists. Raises go out with
    /// the guest's bytes, before anything points to the cluster; drops too, one batch after the one that dropped the
    /// reference. No count ever becomes larger than 1 here, so each fits. Throws `.corrupt` and `.io`; nothing is changed
    /// then.
    func changeRefcounts(from first: UInt64, count: UInt64, _ change: CountChange) throws(ImageError) {
        let block = first >> blockBits
        guard count > 0, block < UInt64(blocks.count), blocks[Int(block)] != 0,
            (first + count - 1) >> blockBits == block
        else { throw ImageError(.corrupt, "a cluster in use has no refcount block", at: first << clusterBits) }
        let bit = (first & (1 << blockBits - 1)) << order
        let start = blocks[Int(block)] + bit >> 3
        var raw = try bytes(at: start, count: Int((bit & 7 + count << order + 7) >> 3))
        let order = order
        raw.withUnsafeMutableBytes { buffer in
            if order < 3 {
                Self.changeBits(buffer, from: Int(bit & 7), count: Int(count), width: 1 << Int(order), change)
            } else {
                Self.changeBytes(buffer, count: Int(count), width: 1 << Int(order) / 8, change)
            }
        }
        try store.write(at: HostOffset(start), raw, phase: isLazy ? .later : .first)
    }

    /// Changes counts of less than a byte.
    private static func changeBits(
        _ raw: UnsafeMutableRawBufferPointer, from first: Int, count: Int, width: Int, _ change: CountChange
    ) {
        var position = first
        for _ in 0..<count {
            let shift = UInt8(truncatingIfNeeded: position & 7)
            let mask = UInt8(truncatingIfNeeded: 1 << width - 1) << shift
            let byte = raw[position >> 3]
            switch change {
            case .one: raw[position >> 3] = byte & ~mask | 1 << shift
            case .less: if byte & mask != 0 { raw[position >> 3] = byte - 1 << shift }
            }
            position += width
        }
    }

    /// Changes counts of whole bytes, big-endian.
    private static func changeBytes(
        _ raw: UnsafeMutableRawBufferPointer, count: Int, width: Int, _ change: CountChange
    ) {
        for index in 0..<count {
            let start = index * width
            var last = start + width - 1
            switch change {
            case .one:
                for byte in start..<last { raw[byte] = 0 }
                raw[last] = 1
            case .less:
                // The lowest byte that is not 0 lends to those behind it.
                while last >= start, raw[last] == 0 { last -= 1 }
                guard last >= start else { continue }
                raw[last] -= 1
                for byte in (last + 1)..<(start + width) { raw[byte] = 255 }
            }
        }
    }

    /// The bytes of a whole new block for the clusters from `first` on (the first of a block), in which the clusters of
    /// `used` have one reference and all others none.
    func newBlock(from first: UInt64, used: Range<UInt64>) -> [UInt8] {
        var raw = [UInt8](repeating: 0, count: Int(clusterSize))
        let part = used.clamped(to: first..<(first + 1 << blockBits))
        for cluster in part {
            let bit = Int((cluster - first) << order)
            if order < 3 { raw[bit >> 3] |= 1 << UInt8(bit & 7) } else { raw[bit >> 3 + 1 << Int(order) / 8 - 1] = 1 }
        }
        return raw
    }

    // MARK: - Dropping references

    /// Looks whether one reference to each of `clusters` can be dropped: none may hold metadata, and each must be counted.
    /// Throws `.corrupt` and `.io`, with nothing changed.
    func checkDrops(_ clusters: [UInt64]) throws(ImageError) {
        for cluster in clusters {
            guard cluster > 0, !regions.contains(cluster) else {
                throw ImageError(.corrupt, "an L2 entry leads into the image's metadata", at: cluster << clusterBits)
            }
            guard try references(to: cluster) > 0 else {
                throw ImageError(.corrupt, "a cluster in use has refcount 0", at: cluster << clusterBits)
            }
        }
    }

    /// Drops one reference to each of `clusters`. The last one frees the cluster: it stays counted until it comes back
    /// through `reclaim`, so that nobody gets it before. Another one is counted when the batch that gathers is durable:
    /// one image of a refcount block cannot both precede and follow the L2 tables.
    func drop(_ clusters: [UInt64], freed: inout [HostRun]) {
        // Where nobody knows what else refers to a cluster, it is leaked until a check.
        for cluster in clusters where reusesSpace {
            let left: UInt64
            // What cannot be read now could be read in `checkDrops`; at worst the cluster is leaked.
            do throws(ImageError) { left = try references(to: cluster) } catch { continue }
            dropped[cluster, default: 0] += 1
            if left > 1 { lowered.append(cluster) } else { add(cluster, to: &freed) }
        }
    }

    private func add(_ cluster: UInt64, to freed: inout [HostRun]) {
        let offset = cluster << clusterBits
        if let last = freed.last, last.file == .image, last.offset.rawValue + last.length == offset {
            freed[freed.count - 1].length += clusterSize
        } else {
            freed.append(run(cluster, count: 1))
        }
    }

    /// Counts references as gone that were dropped before, neighbours together. A count that cannot be changed is left: a
    /// leak.
    func lower(_ clusters: some Sequence<UInt64>) {
        var first: UInt64 = 0
        var count: UInt64 = 0
        for cluster in clusters {
            guard let waiting = dropped[cluster] else { continue }
            dropped[cluster] = waiting > 1 ? waiting - 1 : nil
            if count > 0, cluster == first + count, cluster >> blockBits == first >> blockBits {
                count += 1
            } else {
                lower(first, count: count)
                (first, count) = (cluster, 1)
            }
        }
        lower(first, count: count)
    }

    private func lower(_ first: UInt64, count: UInt64) {
        guard count > 0 else { return }
        do throws(ImageError) { try changeRefcounts(from: first, count: count, .less) } catch { return }
    }
}
