package import Bytes
package import Storage

/// The metadata of a writable image: read through a bounded cache like that of one that is only read, changed in memory,
/// and handed out in batches.
///
/// Reads take no lock and may come from any thread, and see a change as soon as `write` returns; one page of 4 KiB is one
/// consistent snapshot, so a change that lies within a page is seen whole or not at all. The calls that change anything
/// come from one thread at a time: the driver's own lock sees to that.
package final class MetadataStore: Sendable {
    /// When a changed sector is written.
    package enum Phase: Int, Sendable {
        /// With the guest's bytes, before the first barrier: what nothing durable points to yet.
        case first = 0
        /// After it.
        case later = 1
    }

    /// The unit of change in bytes.
    package static var sectorBytes: Int { MetadataOverlay.sectorBytes }

    private let overlay: MetadataOverlay
    private let cache: MetadataCache
    private let slot: FileSlot
    private let granularity: Int
    /// Where changed pages are to find room on the host.
    private let room: MetadataRoom

    /// The metadata in `storage`, which is the driver's file `slot`. At most `limitBytes` bytes of pages are cached, besides
    /// the changed ones. Changes are widened to whole units of `granularity` bytes: 512, or 4096.
    package init(
        _ storage: any Storage, slot: FileSlot = .image, limitBytes: Int, granularity: Int = MetadataStore.sectorBytes
    ) {
        overlay = MetadataOverlay(storage)
        cache = MetadataCache(overlay, limitBytes: limitBytes)
        self.slot = slot
        self.granularity = granularity
        room = MetadataRoom(storage)
    }

    /// The cache, for what only reads.
    package var reader: MetadataCache { cache }

    /// How many bytes are changed and in no batch yet.
    package var dirtyBytes: Int { overlay.dirtyBytes }

    /// Fills `buffer` with the metadata from `offset` on, like `MetadataCache.read`.
    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) {
        try cache.read(at: offset, into: buffer)
    }

    /// Changes `bytes.count` bytes from `offset` on, to be written in `phase`; a sector that waits for an earlier phase
    /// already stays in that. What the change does not cover of its sectors is read first. Throws `.noSpace`, with nothing
    /// changed, and `.io` and `.corrupt`, with nothing changed in the page where that happened and those after it.
    package func write(
        at offset: HostOffset, _ bytes: UnsafeRawBufferPointer, phase: Phase
    ) throws(ImageError) {
        guard offset.advanced(by: UInt64(bytes.count) + 4096) != nil else {
            throw ImageError(.corrupt, "metadata lies past the end of every file")
        }
        try setAside(at: offset, count: UInt64(bytes.count))
        var done = 0
        while done < bytes.count {
            let position = offset.rawValue + UInt64(done)
            let page = position / UInt64(MetadataCache.pageBytes)
            let start = Int(position % UInt64(MetadataCache.pageBytes))
            let count = min(MetadataCache.pageBytes - start, bytes.count - done)
            try change(page, from: start, UnsafeRawBufferPointer(rebasing: bytes[done..<(done + count)]), phase)
            done += count
        }
    }

    /// Changes bytes from `offset` on. Throws like `write` of a buffer.
    package func write(at offset: HostOffset, _ bytes: [UInt8], phase: Phase) throws(ImageError) {
        var failure: ImageError?
        bytes.withUnsafeBytes { buffer in
            do throws(ImageError) { try write(at: offset, buffer, phase: phase) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Takes the host's space for `count` bytes of metadata from `offset` on that will be changed, so that a commit finds it
    /// on a host that is full by then. `write` does it by itself. Throws `.noSpace`.
    package func setAside(at offset: HostOffset, count: UInt64) throws(ImageError) {
        try room.setAside(at: offset, count: count)
    }

    /// Forgets changes to `count` bytes from `offset` on, whole sectors, that are in no batch yet: the range was freed. What
    /// `read` gives for it is undefined until it is written again.
    package func drop(at offset: HostOffset, count: UInt64) {
        let sector = UInt64(Self.sectorBytes)
        var position = offset.rawValue
        let end = position + count
        // The host may be told to take the space back.
        room.forget(at: offset, count: count)
        while position < end {
            let page = position / UInt64(MetadataCache.pageBytes)
            let pageEnd = min(end, (page + 1) * UInt64(MetadataCache.pageBytes))
            let first = position % UInt64(MetadataCache.pageBytes) / sector
            let length = (pageEnd - position) / sector
            overlay.drop(page, mask: UInt8(truncatingIfNeeded: (1 << length - 1) << first))
            position = pageEnd
        }
    }

    /// Takes what is dirty in `phase` into the batch that is being frozen: pages ascending, none longer than `limit` bytes.
    package func take(_ phase: Phase, limit: Int = 1 << 20) -> [Batch.Page] {
        overlay.take(phase: phase.rawValue, limit: limit).map {
            Batch.Page(file: slot, offset: HostOffset($0.offset), bytes: $0.bytes)
        }
    }

    /// All that was taken has reached the file; to be called before anything is taken for the next batch.
    package func settle() { overlay.settle() }

    private func change(
        _ page: UInt64, from start: Int, _ bytes: UnsafeRawBufferPointer, _ phase: Phase
    ) throws(ImageError) {
        let first = start / granularity * granularity
        let end = (start + bytes.count + granularity - 1) / granularity * granularity
        var failure: ImageError?
        withUnsafeTemporaryAllocation(byteCount: end - first, alignment: 16) { unit in
            if first < start || end > start + bytes.count {
                let place = HostOffset(page * UInt64(MetadataCache.pageBytes) + UInt64(first))
                do throws(ImageError) { try cache.read(at: place, into: unit) } catch {
                    failure = error
                    return
                }
            }
            UnsafeMutableRawBufferPointer(rebasing: unit[(start - first)...]).copyMemory(from: bytes)
            let changed = UnsafeRawBufferPointer(unit)
            cache.update(page, from: first, changed) {
                overlay.change(page, from: first / Self.sectorBytes, changed, phase: phase.rawValue)
            }
        }
        if let failure { throw failure }
    }
}
