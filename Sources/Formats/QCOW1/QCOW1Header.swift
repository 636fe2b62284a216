internal import Bytes
internal import Storage

extension QCOW1 {
    /// The header: 48 bytes, big-endian.
    struct Header: BitwiseCopyable, Sendable {
        /// The place and length of the backing file's name in bytes; 0 for none.
        let backingOffset: UInt64
        let backingLength: UInt32
        /// The size of the disk in bytes.
        let virtualSize: UInt64
        /// The cluster size is 2 to this power: 9–16.
        let clusterBits: UInt64
        /// An L2 table has 2 to this power entries of 8 bytes: 6–13.
        let tableBits: UInt64
        /// The place of the L1 table, whose length follows from the size of the disk.
        let l1Offset: UInt64

        /// The bytes of a cluster.
        var clusterSize: UInt64 { 1 << clusterBits }
        /// One L1 entry describes 2 to this power bytes of the disk.
        var spanBits: UInt64 { clusterBits + tableBits }

        /// The bytes of the header.
        static let bytes: UInt64 = 48

        /// Reads and checks the header at the start of `storage`. Throws `.malformed`, `.unsupported`, `.corrupt`, `.io`.
        init(reading storage: any Storage) throws(ImageError) {
            guard storage.size >= Self.bytes else {
                throw ImageError(
                    .malformed, "the qcow header is cut off", detail: "the file ends after \(storage.size) bytes")
            }
            let bytes = try storage.bytes(at: HostOffset(0), count: Int(Self.bytes))
            let span = bytes.span.bytes
            guard span.big(UInt32.self, at: 0) == QCOW1.magic, span.big(UInt32.self, at: 4) == 1 else {
                throw ImageError(.malformed, "not a qcow image of version 1")
            }
            backingOffset = span.big(at: 8)
            backingLength = span.big(at: 16)
            virtualSize = span.big(at: 24)
            clusterBits = UInt64(span.byte(at: 32))
            tableBits = UInt64(span.byte(at: 33))
            l1Offset = span.big(at: 40)
            let encryption: UInt32 = span.big(at: 36)
            guard encryption == 0 else {
                throw ImageError(
                    .unsupported,
                    "the image is encrypted, and encrypted images cannot be read yet; decrypt a copy first",
                    detail: encryption == 1 ? "AES" : "method \(encryption)")
            }
            try check(fileSize: storage.size)
        }

        private func check(fileSize: UInt64) throws(ImageError) {
            guard (9...16).contains(clusterBits) else {
                throw ImageError(
                    .malformed, "the cluster size is not between 512 bytes and 64 KiB", detail: "2^\(clusterBits)")
            }
            guard (6...13).contains(tableBits) else {
                throw ImageError(
                    .malformed, "an L2 table is not between 64 and 8192 entries long", detail: "2^\(tableBits)")
            }
            guard virtualSize <= UInt64(Int64.max) else { throw ImageError(.malformed, "the disk is impossibly large") }
            guard backingLength <= 1023 || backingOffset == 0 else {
                throw ImageError(.malformed, "the backing file's name is too long", at: backingOffset)
            }
            let entries = virtualSize.dividedRoundingUp(by: 1 << spanBits)
            guard entries > 0 else { return }
            guard l1Offset >= Self.bytes, let end = l1Offset.checkedAdding(entries * 8) else {
                throw ImageError(.malformed, "the L1 table is at an impossible place", at: l1Offset)
            }
            guard end <= fileSize else {
                throw ImageError(
                    .corrupt, "the L1 table lies past the end of the file: truncated?", at: l1Offset,
                    detail: "cut off after \(fileSize) bytes")
            }
        }
    }
}
