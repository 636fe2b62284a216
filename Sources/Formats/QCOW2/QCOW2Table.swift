internal import Bytes
internal import Storage

extension QCOW2 {
    /// Where a disk's L1 table is and how guest offsets split into indices: the active disk's or a snapshot's.
    struct Tables: BitwiseCopyable, Sendable {
        /// The size of the disk in bytes.
        let virtualSize: UInt64
        /// The cluster size is 2 to this power.
        let clusterBits: UInt64
        /// An L2 entry has 2 to this power bytes: 3, or 4 with subclusters.
        let entryBits: UInt64
        /// The place of the L1 table in the image.
        let l1Offset: UInt64

        /// The bytes of a cluster.
        var clusterSize: UInt64 { 1 << clusterBits }
        /// An L2 table, one cluster of entries, describes 2 to this power bytes of the disk.
        var tableBits: UInt64 { clusterBits * 2 - entryBits }
        /// The entries of one L2 table.
        var entriesPerTable: UInt64 { 1 << (clusterBits - entryBits) }

        /// Checks that the L1 table is where one can be and is long enough for the disk. Throws `.malformed` and
        /// `.corrupt`.
        init(
            _ header: Header, l1Offset: UInt64, l1Size: UInt32, virtualSize: UInt64, fileSize: UInt64
        ) throws(ImageError) {
            self.virtualSize = virtualSize
            self.l1Offset = l1Offset
            clusterBits = header.clusterBits
            entryBits = header.has(.extendedL2) ? 4 : 3
            let needed = virtualSize.dividedRoundingUp(by: 1 << tableBits)
            guard needed <= UInt64(l1Size) else {
                throw ImageError(.malformed, "the L1 table is too small for the disk")
            }
            guard UInt64(l1Size) * 8 <= 32 << 20,
                Header.isPlace(l1Offset, bytes: UInt64(l1Size) * 8, alignedTo: clusterSize)
            else { throw ImageError(.malformed, "the L1 table is at an impossible place", at: l1Offset) }
            guard needed == 0 || l1Offset >= clusterSize else {
                throw ImageError(.corrupt, "the L1 table lies in the header", at: l1Offset)
            }
            guard needed == 0 || l1Offset + needed * 8 <= fileSize else {
                throw ImageError(
                    .corrupt, "the L1 table lies past the end of the file: truncated?", at: l1Offset,
                    detail: "cut off after \(fileSize) bytes")
            }
        }

        /// The place of the L2 table that an L1 entry names, or 0 for none; `place` is the entry's own. Throws
        /// `.corrupt`.
        func l2Table(_ entry: UInt64, at place: UInt64, fileSize: UInt64) throws(ImageError) -> UInt64 {
            guard entry != 0 else { return 0 }
            guard entry & 0x7F00_0000_0000_01FF == 0 else {
                throw ImageError(.corrupt, "an L1 entry has reserved bits set", at: place)
            }
            let offset = entry & Self.offsetMask
            guard offset & (clusterSize - 1) == 0 else {
                throw ImageError(.corrupt, "an L1 entry names an L2 table that is not on a cluster", at: place)
            }
            guard offset == 0 || offset + clusterSize <= fileSize else {
                throw ImageError(.corrupt, "an L1 entry names an L2 table past the end of the file", at: place)
            }
            return offset
        }

        /// Bits 9–55: the host offset in entries of both levels.
        static let offsetMask: UInt64 = 0x00FF_FFFF_FFFF_FE00
    }

    /// What an L2 entry says about its cluster.
    enum Cluster: BitwiseCopyable, Sendable {
        /// Nothing here: the backing file's, or zeros.
        case unallocated
        /// Zeros, with or without a host cluster kept for later.
        case zero
        /// The bytes are in the data file from this offset on.
        case data(UInt64)
        /// `length` bytes at `offset` of the image decode to the cluster.
        case compressed(offset: UInt64, length: UInt64)
    }

    /// What decides how an L2 entry reads, from the header.
    struct EntryRules: BitwiseCopyable, Sendable {
        /// The cluster size is 2 to this power.
        let clusterBits: UInt64
        /// Version 3 has the zero flag in bit 0; version 2 reserves the bit.
        let hasZeroFlag: Bool
        /// Whether entries have a second word, which takes the zero flag's place.
        let hasSubclusters: Bool
        /// Whether clusters are in a data file, where each has the offset that it has on the disk.
        let hasDataFile: Bool

        /// The rules of `header`.
        init(_ header: Header) {
            clusterBits = header.clusterBits
            hasZeroFlag = header.version >= 3
            hasSubclusters = header.has(.extendedL2)
            hasDataFile = header.has(.externalDataFile)
        }

        /// Reads the first word of an entry. `place` is where it lies; `guest` is the offset of its cluster on the disk.
        /// With subclusters `.data` and `.unallocated` only say whether there is a host cluster. Throws `.corrupt`.
        func cluster(_ entry: UInt64, at place: UInt64, guest: UInt64) throws(ImageError) -> Cluster {
            guard entry != 0 else { return .unallocated }
            if entry >> 62 & 1 == 1 { return try compressed(entry, at: place) }
            // Bits 1–8 and 56–61; bit 0 is the zero flag only where there is one.
            let reserved: UInt64 = 0x3F00_0000_0000_01FE | (hasZeroFlag && !hasSubclusters ? 0 : 1)
            guard entry & reserved == 0 else {
                throw ImageError(.corrupt, "an L2 entry has reserved bits set", at: place)
            }
            let offset = entry & Tables.offsetMask
            guard offset & (1 << clusterBits - 1) == 0 else {
                throw ImageError(.corrupt, "an L2 entry names a host offset that is not on a cluster", at: place)
            }
            // In a data file the first cluster lies at offset 0, and only the COPIED flag tells it from none.
            let hasHost = offset != 0 || (hasDataFile && entry >> 63 == 1)
            guard !hasDataFile || !hasHost || offset == guest else {
                throw ImageError(.corrupt, "an L2 entry names another offset of the data file than its own", at: place)
            }
            if entry & 1 == 1 { return .zero }
            return hasHost ? .data(offset) : .unallocated
        }

        /// A compressed cluster: the low x = 62 − (cluster bits − 8) bits are a byte offset, the bits above up to 61 the
        /// number of further 512-byte sectors that the stored bytes reach into.
        private func compressed(_ entry: UInt64, at place: UInt64) throws(ImageError) -> Cluster {
            guard !hasDataFile else {
                throw ImageError(.corrupt, "an image with a data file has a compressed cluster", at: place)
            }
            let offsetBits = 62 - (clusterBits - 8)
            let offset = entry & (1 << offsetBits - 1)
            let sectors = (entry >> offsetBits & (1 << (clusterBits - 8) - 1)) + 1
            guard offset >= 1 << clusterBits else {
                throw ImageError(.corrupt, "a compressed cluster lies in the header", at: place)
            }
            return .compressed(offset: offset, length: sectors * 512 - (offset & 511))
        }
    }
}

extension QCOW2.Header {
    /// The tables of the active disk. Throws `.malformed` and `.corrupt`.
    func activeTables(fileSize: UInt64) throws(ImageError) -> QCOW2.Tables {
        try QCOW2.Tables(self, l1Offset: l1Offset, l1Size: l1Size, virtualSize: virtualSize, fileSize: fileSize)
    }
}
