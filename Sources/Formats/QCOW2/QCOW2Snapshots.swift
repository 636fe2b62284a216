internal import Bytes
internal import Storage

extension QCOW2 {
    /// The image's own list of internal snapshots (QEMU, docs/interop/qcow2, "Snapshots").
    struct SnapshotTable: Sendable {
        /// One snapshot: what people see, and where its L1 table is.
        struct Entry: Sendable {
            /// Identifier, name, size and date.
            let info: SnapshotInfo
            /// The place of its L1 table, not yet checked.
            let l1Offset: UInt64
            /// The length of its L1 table in entries.
            let l1Size: UInt32
        }

        /// The snapshots in the order of the table.
        private(set) var entries: [Entry] = []
        /// What people see of them, in the same order.
        private(set) var infos: [SnapshotInfo] = []
        /// What is wrong with the rest of the table, as a sentence; nil when all of it was read. The active disk does not
        /// need the table, so damage in it does not keep the image from being read.
        private(set) var damage: String?
        /// The length of the table in bytes, as far as it was read.
        private(set) var byteCount: UInt64 = 0

        /// The fixed part of an entry in bytes.
        private static let fixedBytes = 40
        /// More of an identifier or a name is not kept: far more than QEMU writes, and 65536 snapshots stay small.
        private static let keptBytes = 255

        /// Reads the table; at most 64 MiB of it, as QEMU allows. Throws `.malformed` beyond the format's limits, and
        /// `.io`.
        init(reading cache: MetadataCache, _ header: Header) throws(ImageError) {
            guard header.snapshotCount > 0 else { return }
            guard header.snapshotsOffset >= header.clusterSize else {
                damage = "The snapshot table lies in the header; no snapshot can be read."
                return
            }
            var position = header.snapshotsOffset
            for index in 0..<header.snapshotCount {
                guard let entry = try Self.entry(at: position, cache, header) else {
                    damage = "The snapshot table ends after \(index) of \(header.snapshotCount.counted("snapshot"))."
                    return
                }
                entries.append(entry.entry)
                infos.append(entry.entry.info)
                position = entry.end
                byteCount = position - header.snapshotsOffset
                guard byteCount <= 64 << 20 else {
                    throw ImageError(.malformed, "the snapshot table is larger than 64 MiB")
                }
            }
        }

        /// The entry at `position` and where it ends; nil where it reaches past the end of the file.
        private static func entry(
            at position: UInt64, _ cache: MetadataCache, _ header: Header
        ) throws(ImageError) -> (entry: Entry, end: UInt64)? {
            guard let fixed = try bytes(at: position, count: fixedBytes, cache) else { return nil }
            let span = fixed.span.bytes
            let idLength = Int(span.big(UInt16.self, at: 12))
            let nameLength = Int(span.big(UInt16.self, at: 14))
            let extraLength = Int(span.big(UInt32.self, at: 36))
            guard extraLength <= 1024 else {
                throw ImageError(.malformed, "a snapshot has more than 1024 bytes of extra data", at: position)
            }
            let rest = try bytes(at: position + UInt64(fixedBytes), count: extraLength + idLength + nameLength, cache)
            guard let rest else { return nil }
            // The disk's size is the second word of the extra data; older writers left it out.
            let size = extraLength >= 16 ? rest.span.bytes.big(UInt64.self, at: 8) : header.virtualSize
            let info = SnapshotInfo(
                id: text(rest[extraLength..<(extraLength + idLength)]), name: text(rest[(extraLength + idLength)...]),
                virtualSize: size, date: Int64(span.big(UInt32.self, at: 16)))
            let entry = Entry(info: info, l1Offset: span.big(at: 0), l1Size: span.big(at: 8))
            let length = UInt64(fixedBytes + extraLength + idLength + nameLength)
            return (entry, position + ((length + 7) & ~7))
        }

        private static func text(_ bytes: ArraySlice<UInt8>) -> String {
            String(decoding: bytes.prefix(keptBytes), as: UTF8.self)
        }

        /// `count` bytes (0 or more, below 136 KiB) at `position`; nil where the file ends before them.
        private static func bytes(
            at position: UInt64, count: Int, _ cache: MetadataCache
        ) throws(ImageError) -> [UInt8]? {
            guard cache.storage.holds(HostOffset(position), count: UInt64(count)) else { return nil }
            var result = [UInt8](repeating: 0, count: count)
            var failure: ImageError?
            result.withUnsafeMutableBytes { buffer in
                do throws(ImageError) { try cache.read(at: HostOffset(position), into: buffer) } catch {
                    failure = error
                }
            }
            if let failure { throw failure }
            return result
        }
    }
}

extension QCOW2.SnapshotTable.Entry {
    /// The tables of the snapshot's disk, checked like the active ones; the snapshot has a size of its own. Throws
    /// `.malformed` and `.corrupt`.
    func tables(_ header: QCOW2.Header, fileSize: UInt64) throws(ImageError) -> QCOW2.Tables {
        guard info.virtualSize <= UInt64(Int64.max) else {
            throw ImageError(.malformed, "the snapshot's disk is impossibly large", detail: info.id)
        }
        return try QCOW2.Tables(
            header, l1Offset: l1Offset, l1Size: l1Size, virtualSize: info.virtualSize, fileSize: fileSize)
    }
}
