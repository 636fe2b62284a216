internal import Bytes
internal import Storage

extension QCOW1 {
    /// What an L2 entry says about its cluster.
    enum Cluster: BitwiseCopyable, Sendable {
        /// Nothing here: the backing file's, or zeros.
        case unallocated
        /// The bytes are in the image from this offset on.
        case data(UInt64)
        /// `length` bytes at `offset` decode to the cluster.
        case compressed(offset: UInt64, length: UInt64)
    }
}

extension QCOW1.Header {
    /// The place of the L2 table that an L1 entry names, or 0 for none; `place` is the entry's own. Throws `.corrupt`.
    func l2Table(_ entry: UInt64, at place: UInt64, fileSize: UInt64) throws(ImageError) -> UInt64 {
        guard entry != 0 else { return 0 }
        guard entry >= Self.bytes, let end = entry.checkedAdding(8 << tableBits), end <= fileSize else {
            throw ImageError(.corrupt, "an L1 entry names an L2 table outside the file", at: place)
        }
        return entry
    }

    /// Reads an L2 entry at `place`: an offset, or with bit 63 a compressed cluster, whose length in bytes stands in the
    /// cluster's own number of bits above the offset. Throws `.corrupt`.
    func cluster(_ entry: UInt64, at place: UInt64) throws(ImageError) -> QCOW1.Cluster {
        guard entry != 0 else { return .unallocated }
        if entry >> 63 == 1 {
            let offsetBits = 63 - clusterBits
            let offset = entry & (1 << offsetBits - 1)
            let length = entry >> offsetBits & (clusterSize - 1)
            guard offset >= Self.bytes, length > 0 else {
                throw ImageError(.corrupt, "a compressed cluster has no place or no length", at: place)
            }
            return .compressed(offset: offset, length: length)
        }
        guard entry & 511 == 0 else {
            throw ImageError(.corrupt, "an L2 entry names a host offset that is not on a sector", at: place)
        }
        return .data(entry)
    }
}
