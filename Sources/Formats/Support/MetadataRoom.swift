internal import Bytes
internal import Storage
internal import Synchronization

/// Sees to it that changed metadata finds room on a host that is full.
///
/// An image is a sparse file: also a table that was there from the start may lie in a hole. If its page could not be
/// written, nothing could be committed any more: no discard that would make room, no fsync of bytes that have their place,
/// and no unmount. So whoever changes a page takes the host's space for it before, and a writer for whom there is none gets
/// the error instead.
final class MetadataRoom: Sendable {
    private struct State {
        /// The pages that have space.
        var pages: Set<UInt64> = []
        /// Whether the host can set space aside at all.
        var isPossible = true
    }

    private static let pageBytes = UInt64(MetadataCache.pageBytes)
    private let storage: any Storage
    private let state = Mutex(State())

    init(_ storage: any Storage) { self.storage = storage }

    /// Takes space for the pages of `count` bytes from `offset` on, as far as they lie within the file: the file's end
    /// stays where it is. Throws `.noSpace`; a host that fails otherwise will say so when the page is written.
    func setAside(at offset: HostOffset, count: UInt64) throws(ImageError) {
        guard count > 0, let end = offset.advanced(by: count)?.rawValue else { return }
        let pages = offset.rawValue / Self.pageBytes..<end.dividedRoundingUp(by: Self.pageBytes)
        try state.withLock { state throws(ImageError) in
            var rest = pages
            while state.isPossible, let first = rest.first(where: { !state.pages.contains($0) }) {
                let last = (first..<rest.upperBound).first { state.pages.contains($0) } ?? rest.upperBound
                try take(first..<last, &state)
                rest = last..<rest.upperBound
            }
        }
    }

    private func take(_ pages: Range<UInt64>, _ state: inout State) throws(ImageError) {
        let start = pages.lowerBound * Self.pageBytes
        let end = min(pages.upperBound * Self.pageBytes, storage.size)
        guard start < end else { return }
        do throws(ImageError) {
            state.isPossible = try storage.allocate(at: HostOffset(start), count: end - start)
        } catch {
            guard error.kind != .noSpace else { throw error }
            state.isPossible = false
        }
        if state.isPossible { state.pages.formUnion(pages) }
    }

    /// `count` bytes from `offset` on are no metadata any more.
    func forget(at offset: HostOffset, count: UInt64) {
        guard count > 0, let end = offset.advanced(by: count)?.rawValue else { return }
        let pages = offset.rawValue / Self.pageBytes..<end.dividedRoundingUp(by: Self.pageBytes)
        state.withLock { state in
            guard !state.pages.isEmpty else { return }
            if pages.count > state.pages.count {
                state.pages = state.pages.filter { !pages.contains($0) }
            } else {
                state.pages.subtract(pages)
            }
        }
    }
}
