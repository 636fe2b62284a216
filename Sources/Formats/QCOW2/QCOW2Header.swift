internal import Bytes
internal import Storage

extension QCOW2 {
    /// The fixed part of the header (QEMU, docs/interop/qcow2, "Header"): all of version 2's 72 bytes and of version 3's
    /// 112, every field checked on its own.
    struct Header: Sendable {
        /// 2 or 3.
        let version: UInt32
        /// The name of the backing file: where it is in the file, and its length in bytes; 0 for none.
        let backingOffset: UInt64
        let backingLength: UInt32
        /// The cluster size is 2 to this power: 9–21.
        let clusterBits: UInt64
        /// The size of the disk in bytes.
        let virtualSize: UInt64
        /// The active L1 table: its place, and its length in entries of 8 bytes.
        let l1Offset: UInt64
        let l1Size: UInt32
        /// The internal snapshots: how many, and where their table is.
        let snapshotCount: UInt32
        let snapshotsOffset: UInt64
        /// The three sets of feature bits; 0 in version 2.
        let incompatible: UInt64
        let compatible: UInt64
        let autoclear: UInt64
        /// A refcount has 2 to this power bits: 0–6.
        let refcountOrder: UInt32
        /// Where the header extensions begin.
        let headerLength: UInt64
        /// How compressed clusters are compressed.
        let compression: Compression

        /// The methods of compression, by their number in the header.
        enum Compression: UInt8, Sendable {
            case zlib = 0
            case zstd = 1
        }

        /// The bytes of a cluster.
        var clusterSize: UInt64 { 1 << clusterBits }

        /// Whether an incompatible feature is set.
        func has(_ feature: Incompatible) -> Bool { incompatible & feature.rawValue != 0 }

        /// Reads and checks the header at the start of `storage`. Throws `.malformed`, `.unsupported` and `.io`.
        init(reading storage: any Storage) throws(ImageError) {
            let count = Int(min(storage.size, 112))
            guard count >= 72 else { throw Self.cutOff(storage) }
            var bytes = try storage.bytes(at: HostOffset(0), count: count)
            // A version 2 file may end before the fields that only version 3 has.
            bytes += [UInt8](repeating: 0, count: 112 - count)
            try self.init(bytes.span.bytes)
            guard version == 2 || count >= 104 else { throw Self.cutOff(storage) }
            try checkLimits()
        }

        private static func cutOff(_ storage: any Storage) -> ImageError {
            ImageError(.malformed, "the qcow2 header is cut off", detail: "the file ends after \(storage.size) bytes")
        }

        private init(_ span: RawSpan) throws(ImageError) {
            guard span.big(UInt32.self, at: 0) == QCOW2.magic else {
                throw ImageError(.malformed, "not a qcow2 image: the magic number is missing")
            }
            version = span.big(at: 4)
            guard version == 2 || version == 3 else {
                throw ImageError(.unsupported, "the qcow2 version is not known", detail: "version \(version)")
            }
            backingOffset = span.big(at: 8)
            backingLength = span.big(at: 16)
            let bits: UInt32 = span.big(at: 20)
            guard (9...21).contains(bits) else {
                throw ImageError(.malformed, "the cluster size is not between 512 bytes and 2 MiB", detail: "2^\(bits)")
            }
            clusterBits = UInt64(bits)
            virtualSize = span.big(at: 24)
            try Self.checkEncryption(span.big(at: 32))
            l1Size = span.big(at: 36)
            l1Offset = span.big(at: 40)
            snapshotCount = span.big(at: 60)
            snapshotsOffset = span.big(at: 64)
            try Self.checkRefcountTable(
                offset: span.big(at: 48), clusters: UInt64(span.big(UInt32.self, at: 56)), clusterBits: clusterBits)
            let isNew = version == 3
            incompatible = isNew ? span.big(at: 72) : 0
            compatible = isNew ? span.big(at: 80) : 0
            autoclear = isNew ? span.big(at: 88) : 0
            refcountOrder = isNew ? span.big(at: 96) : 4
            headerLength = isNew ? UInt64(span.big(UInt32.self, at: 100)) : 72
            // A field counts as present only where the header reaches over it.
            let number = headerLength > 104 ? span.byte(at: 104) : 0
            guard let method = Compression(rawValue: number) else {
                throw ImageError(.unsupported, "the compression method is not known", detail: "type \(number)")
            }
            compression = method
        }

        private static func checkEncryption(_ method: UInt32) throws(ImageError) {
            let name: String
            switch method {
            case 0: return
            case 1: name = "AES"
            case 2: name = "LUKS"
            default: name = "method \(method)"
            }
            throw ImageError(
                .unsupported, "the image is encrypted, and encrypted images cannot be read yet; decrypt a copy first",
                detail: name)
        }

        /// At least one cluster and at most 8 MiB of refcount table, as QEMU has it.
        private static func checkRefcountTable(
            offset: UInt64, clusters: UInt64, clusterBits: UInt64
        ) throws(ImageError) {
            guard clusters > 0 else { throw ImageError(.malformed, "the image has no refcount table") }
            guard clusters << clusterBits <= 8 << 20 else {
                throw ImageError(.malformed, "the refcount table is larger than 8 MiB")
            }
            guard isPlace(offset, bytes: clusters << clusterBits, alignedTo: 1 << clusterBits) else {
                throw ImageError(.malformed, "the refcount table is at an impossible place", at: offset)
            }
        }

        private func checkLimits() throws(ImageError) {
            guard virtualSize <= UInt64(Int64.max) else { throw ImageError(.malformed, "the disk is impossibly large") }
            guard refcountOrder <= 6 else {
                throw ImageError(.malformed, "the refcount width is above 64 bits", detail: "order \(refcountOrder)")
            }
            guard headerLength >= 104 || version == 2 else {
                throw ImageError(
                    .malformed, "the header's own length is too small", detail: headerLength.counted("byte"))
            }
            guard headerLength <= clusterSize else {
                throw ImageError(
                    .malformed, "the header is longer than a cluster", detail: headerLength.counted("byte"))
            }
            guard UInt64(l1Size) * 8 <= 32 << 20 else {
                throw ImageError(.malformed, "the L1 table is larger than 32 MiB")
            }
            guard Self.isPlace(l1Offset, bytes: UInt64(l1Size) * 8, alignedTo: clusterSize) else {
                throw ImageError(.malformed, "the L1 table is at an impossible place", at: l1Offset)
            }
            try checkBackingName()
            guard snapshotCount <= 65536 else {
                throw ImageError(.malformed, "the image has more than 65536 snapshots", detail: "\(snapshotCount)")
            }
            guard Self.isPlace(snapshotsOffset, bytes: UInt64(snapshotCount) * 40, alignedTo: clusterSize) else {
                throw ImageError(.malformed, "the snapshot table is at an impossible place", at: snapshotsOffset)
            }
        }

        private func checkBackingName() throws(ImageError) {
            guard backingOffset != 0 else { return }
            guard backingOffset <= clusterSize else {
                throw ImageError(
                    .malformed, "the backing file's name lies outside the first cluster", at: backingOffset)
            }
            guard backingLength <= 1023, backingOffset + UInt64(backingLength) <= clusterSize else {
                throw ImageError(.malformed, "the backing file's name is too long", at: backingOffset)
            }
        }

        /// Whether a table of `bytes` bytes may begin at `offset`: on a cluster, its end within what a file can hold.
        static func isPlace(_ offset: UInt64, bytes: UInt64, alignedTo cluster: UInt64) -> Bool {
            guard offset & (cluster - 1) == 0, let end = offset.checkedAdding(bytes) else { return false }
            return end <= UInt64(Int64.max)
        }
    }
}
