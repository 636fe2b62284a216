internal import Bytes
internal import Storage
internal import Synchronization

/// Giving blocks up.
extension VHDSparseDriver {
    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        guard let session else { throw .openForReading }
        try session.checkHealth()
        let nothing = ByteRange(range.lower, to: range.lower)
        guard !range.isEmpty else { return nothing }
        if parent != nil, case .showsParent = release { return try drop(range, session, &freed) }
        // A child's table cannot say "zeros": a block that is not there shows the parent.
        guard parent == nil else { return nothing }
        return try drop(range, session, &freed)
    }

    /// Takes the blocks that lie in `range` as a whole out of the table, and returns the range with those at its edges that
    /// were not there before. Parts of blocks that stay are left out.
    private func drop(
        _ range: ByteRange, _ session: VHDSession, _ freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        let size = table.blockSize
        var lower = range.lower
        var upper = range.upper
        if lower & (size - 1) != 0, try entry(of: lower >> table.blockShift) != VHDTable.unused {
            lower = min((lower | (size - 1)) + 1, upper)
        }
        if lower < upper, upper & (size - 1) != 0, upper < table.virtualSize,
            try entry(of: upper >> table.blockShift) != VHDTable.unused
        {
            upper = max(upper & ~(size - 1), lower)
        }
        guard lower < upper else { return ByteRange(range.lower, to: range.lower) }
        var block = lower >> table.blockShift
        let end = (upper - 1) >> table.blockShift + 1
        while block < end { block = try dropPage(from: block, to: end, session, &freed) }
        return ByteRange(lower, to: upper)
    }

    /// Takes blocks out of the part of the table that lies in one page of the file; returns the first block after it.
    /// Either all of them are out, or, when this throws, none.
    private func dropPage(
        from block: UInt64, to end: UInt64, _ session: VHDSession, _ freed: inout [HostRun]
    ) throws(ImageError) -> UInt64 {
        let offset = table.entryOffset(block).rawValue
        let pageBytes = UInt64(MetadataCache.pageBytes)
        let count = min(end - block, (pageBytes - offset % pageBytes) / 4)
        try session.space.withLock { space throws(ImageError) in
            var held: [UInt32] = []
            try withUnsafeTemporaryAllocation(byteCount: Int(count) * 4, alignment: 4) { bytes throws(ImageError) in
                try cache.read(at: HostOffset(offset), into: bytes)
                for index in 0..<Int(count) {
                    let entry = UInt32(bigEndian: bytes.load(fromByteOffset: index * 4, as: UInt32.self))
                    guard entry != VHDTable.unused else { continue }
                    try check(block + UInt64(index), at: UInt64(entry) * 512)
                    held.append(entry)
                    bytes.storeBytes(of: VHDTable.unused, toByteOffset: index * 4, as: UInt32.self)
                }
                guard !held.isEmpty else { return }
                try session.store.write(at: HostOffset(offset), UnsafeRawBufferPointer(bytes), phase: .later)
            }
            for start in held { freed.append(setFree(start, session, &space)) }
            space.unallocated += UInt64(held.count)
        }
        return block + count
    }
}
