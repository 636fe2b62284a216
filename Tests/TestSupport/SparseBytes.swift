internal import Glibc

/// The content of a file as a value: copies share their pages until one of them changes, so that thousands of states of
/// one image cost little more than what tells them apart.
package struct SparseBytes: Sendable {
    /// The unit of sharing and of holes, in bytes.
    package static let pageBytes = 16 << 10

    /// Memory that is changed only while one value holds it.
    private final class Page: @unchecked Sendable {
        let memory: UnsafeMutableRawBufferPointer

        init() {
            memory = .allocate(byteCount: SparseBytes.pageBytes, alignment: 64)
            if let base = memory.baseAddress { memset(base, 0, memory.count) }
        }

        convenience init(copying other: Page) { self.init(UnsafeRawBufferPointer(other.memory)) }

        /// A page that begins with these bytes.
        init(_ bytes: UnsafeRawBufferPointer) {
            memory = .allocate(byteCount: SparseBytes.pageBytes, alignment: 64)
            memory.copyMemory(from: bytes)
            let rest = memory.count - bytes.count
            if rest > 0, let base = memory.baseAddress { memset(base + bytes.count, 0, rest) }
        }

        func isEqual(_ bytes: UnsafeRawBufferPointer) -> Bool {
            areEqual(UnsafeRawBufferPointer(rebasing: memory[..<bytes.count]), bytes)
        }

        deinit { memory.deallocate() }
    }

    private var pages: [Page?] = []

    /// The size in bytes.
    package private(set) var size = 0

    /// `size` bytes, all of them a hole.
    package init(size: Int = 0) { resize(to: size) }

    /// These bytes.
    package init(_ bytes: [UInt8]) {
        resize(to: bytes.count)
        bytes.withUnsafeBytes { write(at: 0, $0) }
    }

    /// How many bytes there is memory for.
    package var allocatedBytes: Int { pages.count { $0 != nil } * Self.pageBytes }

    /// Copies what there is from `offset` on into `buffer`, and returns how much.
    package func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let total = min(buffer.count, max(0, size - offset))
        var done = 0
        while done < total {
            let start = (offset + done) % Self.pageBytes
            let count = min(Self.pageBytes - start, total - done)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + count)])
            if let page = pages[(offset + done) / Self.pageBytes] {
                part.copyMemory(from: UnsafeRawBufferPointer(rebasing: page.memory[start..<(start + count)]))
            } else if let base = part.baseAddress {
                memset(base, 0, count)
            }
            done += count
        }
        return total
    }

    /// `count` bytes from `offset` on; what lies past the end is zeros.
    package func bytes(at offset: Int, count: Int) -> [UInt8] {
        var result = zeroBytes(count)
        _ = result.withUnsafeMutableBytes { read(at: offset, into: $0) }
        return result
    }

    /// All of the bytes.
    package var bytes: [UInt8] { bytes(at: 0, count: size) }

    /// Writes bytes, growing where they reach past the end.
    package mutating func write(at offset: Int, _ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        if offset + bytes.count > size { resize(to: offset + bytes.count) }
        var done = 0
        while done < bytes.count {
            let start = (offset + done) % Self.pageBytes
            let count = min(Self.pageBytes - start, bytes.count - done)
            let page = ownPage((offset + done) / Self.pageBytes)
            UnsafeMutableRawBufferPointer(rebasing: page.memory[start..<(start + count)])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[done..<(done + count)]))
            done += count
        }
    }

    /// Makes a range within the size read as zeros; whole pages of it become holes.
    package mutating func zero(at offset: Int, count: Int) {
        let end = min(size, offset + count)
        var position = offset
        while position < end {
            let index = position / Self.pageBytes
            let start = position % Self.pageBytes
            let length = min(Self.pageBytes - start, end - position)
            if length == Self.pageBytes {
                pages[index] = nil
            } else if pages[index] != nil {
                let page = ownPage(index)
                if let base = page.memory.baseAddress { memset(base + start, 0, length) }
            }
            position += length
        }
    }

    /// Cuts or extends to `size` bytes; what is added reads as zeros.
    package mutating func resize(to size: Int) {
        let count = (size + Self.pageBytes - 1) / Self.pageBytes
        if size < self.size {
            zero(at: size, count: self.size - size)
            pages.removeLast(pages.count - count)
        } else if count > pages.count {
            pages += [Page?](repeating: nil, count: count - pages.count)
        }
        self.size = size
    }

    /// The first byte at or after `offset` that there is memory for, or nil.
    package func nextData(from offset: Int) -> Int? { next(from: offset) { $0 != nil } }

    /// The first byte at or after `offset` in a hole, or the size.
    package func nextHole(from offset: Int) -> Int { next(from: offset) { $0 == nil } ?? size }

    private func next(from offset: Int, where wanted: (Page?) -> Bool) -> Int? {
        guard offset < size else { return nil }
        let first = offset / Self.pageBytes
        guard let index = (first..<pages.count).first(where: { wanted(pages[$0]) }) else { return nil }
        return max(offset, index * Self.pageBytes)
    }

    /// The page at `index`, held by this value alone.
    private mutating func ownPage(_ index: Int) -> Page {
        if pages[index] == nil {
            pages[index] = Page()
        } else if !isKnownUniquelyReferenced(&pages[index]), let shared = pages[index] {
            pages[index] = Page(copying: shared)
        }
        return pages[index] ?? Page()
    }

    /// Sets whole pages, the first of them at `offset`, to `bytes`; a last one that is not whole ends the content. What
    /// `like` holds already is shared with it, so that comparing the two later costs nothing.
    package mutating func adopt(_ bytes: UnsafeRawBufferPointer, at offset: Int, like: SparseBytes) {
        for start in stride(from: 0, to: bytes.count, by: Self.pageBytes) {
            let part = UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + Self.pageBytes, bytes.count)])
            let index = (offset + start) / Self.pageBytes
            let known = index < like.pages.count && like.size == size ? like.pages[index] : nil
            if let known, known.isEqual(part) {
                pages[index] = known
            } else {
                pages[index] = Self.zeroPage.isEqual(part) ? nil : Page(part)
            }
        }
    }

    /// Calls `body` with the bytes and the offset of every page that differs from that of `other`, which is as large.
    package func forEachDifference(
        from other: SparseBytes, _ body: (UnsafeRawBufferPointer, Int) throws -> Void
    ) rethrows {
        for index in pages.indices where pages[index] !== other.pages[index] {
            let start = index * Self.pageBytes
            let page = pages[index] ?? Self.zeroPage
            let content = UnsafeRawBufferPointer(rebasing: page.memory[..<min(Self.pageBytes, size - start)])
            if !(other.pages[index] ?? Self.zeroPage).isEqual(content) { try body(content, start) }
        }
    }

    /// The offset of the first byte in which the two differ, or nil.
    package func firstDifference(from other: SparseBytes) -> Int? {
        guard size == other.size else { return min(size, other.size) }
        var first: Int?
        forEachDifference(from: other) { part, start in
            guard first == nil else { return }
            let wanted = other.bytes(at: start, count: part.count)
            first = part.indices.first { part[$0] != wanted[$0] }.map { start + $0 }
        }
        return first
    }

    private static let zeroPage = Page()

    /// Whether the bytes from `offset` on, past the end zeros, are these.
    package func matches(_ content: UnsafeRawBufferPointer, at offset: Int) -> Bool {
        let start = offset % Self.pageBytes
        guard start + content.count <= Self.pageBytes, offset + content.count <= size,
            let page = pages[offset / Self.pageBytes]
        else {
            return bytes(at: offset, count: content.count).withUnsafeBytes { areEqual($0, content) }
        }
        return areEqual(UnsafeRawBufferPointer(rebasing: page.memory[start..<(start + content.count)]), content)
    }
}

/// So many zeros. In a debug build the initialiser of arrays goes byte by byte, and that is most of the time of a campaign.
package func zeroBytes(_ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        if let base = buffer.baseAddress { memset(base, 0, count) }
        initialized = count
    }
}
