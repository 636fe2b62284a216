internal import Bytes
internal import Storage
internal import Synchronization

/// Sectors of a file that were changed and are not all written yet, over the file: what a `MetadataCache` of a writable
/// image reads from.
///
/// A sector is dirty from its change until `take`, frozen from then until `settle`; in both states this is where its
/// content is found, however often the cache drops the page.
final class MetadataOverlay: Storage {
    /// The unit of change in bytes: what a disk writes whole or not at all.
    static let sectorBytes = 512
    static let sectorsPerPage = MetadataCache.pageBytes / sectorBytes

    private struct Page {
        var bytes = [UInt8](repeating: 0, count: MetadataCache.pageBytes)
        /// Which sectors are changed and not in a batch, a bit each, by the phase that they go out in.
        var dirty: InlineArray<2, UInt8> = [0, 0]
        /// Which sectors are in the batch under way.
        var frozen: UInt8 = 0

        var held: UInt8 { dirty[0] | dirty[1] | frozen }
    }

    private struct Pages {
        var table: [UInt64: Page] = [:]
        /// The pages with frozen sectors.
        var frozen: [UInt64] = []
    }

    let base: any Storage
    private let pages = Mutex(Pages())
    private let dirtySectors = Atomic<Int>(0)

    init(_ base: any Storage) { self.base = base }

    /// How many bytes are changed and in no batch yet.
    var dirtyBytes: Int { dirtySectors.load(ordering: .relaxed) * Self.sectorBytes }

    // MARK: - Storage

    var name: String { base.name }

    var identity: FileIdentity? { base.identity }

    var size: UInt64 { base.size }

    func refresh() throws(ImageError) -> UInt64 { try base.refresh() }

    /// Only `MetadataCache` reads here: whole pages from a page boundary on. The changed sectors are looked up before the
    /// file is read, so that a page that settles in between is found in one of the two.
    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let first = offset.rawValue / UInt64(MetadataCache.pageBytes)
        let count = (buffer.count + MetadataCache.pageBytes - 1) / MetadataCache.pageBytes
        let changed = pages.withLock { pages -> [(Int, Page)] in
            guard !pages.table.isEmpty else { return [] }
            return (0..<count).compactMap { index in
                pages.table[first + UInt64(index)].map { (index * MetadataCache.pageBytes, $0) }
            }
        }
        var end = try base.read(at: offset, into: buffer)
        for (start, page) in changed {
            for sector in 0..<Self.sectorsPerPage where page.held >> UInt8(sector) & 1 == 1 {
                let from = sector * Self.sectorBytes
                let place = start + from
                guard place + Self.sectorBytes <= buffer.count else { continue }
                if place > end {
                    UnsafeMutableRawBufferPointer(rebasing: buffer[end..<place])
                        .initializeMemory(as: UInt8.self, repeating: 0)
                }
                page.bytes.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(rebasing: buffer[place..<(place + Self.sectorBytes)])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[from..<(from + Self.sectorBytes)]))
                }
                end = max(end, place + Self.sectorBytes)
            }
        }
        return end
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        let pageBytes = UInt64(MetadataCache.pageBytes)
        let changed = pages.withLock { pages in
            pages.table.keys.lazy.filter { ($0 + 1) * pageBytes > offset.rawValue }.min()
        }.map { max(HostOffset($0 * pageBytes), offset) }
        guard let data = try base.nextData(from: offset) else { return changed }
        return changed.map { min($0, data) } ?? data
    }

    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { try base.nextHole(from: offset) }

    func allocatedBytes() throws(ImageError) -> UInt64 { try base.allocatedBytes() }

    func flush() throws(ImageError) { try base.flush() }

    /// The file belongs to somebody else.
    func close() {}

    // MARK: - Changes

    /// Takes whole sectors of one page: `bytes` from sector `first` on. A sector that is dirty in an earlier phase stays
    /// in that.
    func change(_ page: UInt64, from first: Int, _ bytes: UnsafeRawBufferPointer, phase: Int) {
        let count = bytes.count / Self.sectorBytes
        let mask = UInt8(truncatingIfNeeded: (1 << count - 1) << first)
        let added = pages.withLock { pages -> Int in
            var entry = pages.table.removeValue(forKey: page) ?? Page()
            let start = first * Self.sectorBytes
            entry.bytes.replaceSubrange(start..<(start + bytes.count), with: bytes)
            let before = (entry.dirty[0] | entry.dirty[1]).nonzeroBitCount
            if phase == 0 {
                entry.dirty[0] |= mask
                entry.dirty[1] &= ~mask
            } else {
                entry.dirty[1] |= mask & ~entry.dirty[0]
            }
            let after = (entry.dirty[0] | entry.dirty[1]).nonzeroBitCount
            pages.table[page] = entry
            return after - before
        }
        dirtySectors.wrappingAdd(added, ordering: .relaxed)
    }

    /// Forgets changes of whole sectors that are in no batch: nothing points to them any more.
    func drop(_ page: UInt64, mask: UInt8) {
        let dropped = pages.withLock { pages -> Int in
            guard var entry = pages.table[page] else { return 0 }
            let before = (entry.dirty[0] | entry.dirty[1]).nonzeroBitCount
            entry.dirty[0] &= ~mask
            entry.dirty[1] &= ~mask
            pages.table[page] = entry.held == 0 ? nil : entry
            return before - (entry.dirty[0] | entry.dirty[1]).nonzeroBitCount
        }
        dirtySectors.wrappingSubtract(dropped, ordering: .relaxed)
    }

    /// Takes the dirty sectors of a phase into the batch under way: runs of adjacent sectors, ascending, none longer than
    /// `limit` bytes.
    func take(phase: Int, limit: Int) -> [(offset: UInt64, bytes: [UInt8])] {
        var taken = 0
        let runs = pages.withLock { pages -> [(offset: UInt64, bytes: [UInt8])] in
            var runs: [(offset: UInt64, bytes: [UInt8])] = []
            for page in pages.table.keys.filter({ pages.table[$0]?.dirty[phase] != 0 }).sorted() {
                guard var entry = pages.table[page] else { continue }
                let mask = entry.dirty[phase]
                for sector in 0..<Self.sectorsPerPage where mask >> UInt8(sector) & 1 == 1 {
                    let start = sector * Self.sectorBytes
                    let offset = page * UInt64(MetadataCache.pageBytes) + UInt64(start)
                    let bytes = entry.bytes[start..<(start + Self.sectorBytes)]
                    if let last = runs.last, last.offset + UInt64(last.bytes.count) == offset,
                        last.bytes.count + bytes.count <= limit
                    {
                        runs[runs.count - 1].bytes += bytes
                    } else {
                        runs.append((offset, Array(bytes)))
                    }
                }
                if entry.frozen == 0 { pages.frozen.append(page) }
                entry.frozen |= mask
                entry.dirty[phase] = 0
                taken += mask.nonzeroBitCount
                pages.table[page] = entry
            }
            return runs
        }
        dirtySectors.wrappingSubtract(taken, ordering: .relaxed)
        return runs
    }

    /// The batch under way has reached the file.
    func settle() {
        pages.withLock { pages in
            for page in pages.frozen {
                guard var entry = pages.table[page] else { continue }
                entry.frozen = 0
                pages.table[page] = entry.held == 0 ? nil : entry
            }
            pages.frozen = []
        }
    }
}
