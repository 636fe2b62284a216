package import Bytes
package import Storage
internal import Synchronization

/// A bounded cache of a host file's metadata, in pages of 4 KiB, that readers use without a lock.
///
/// No table is ever read whole: BAT, L1, L2, bitmaps and sector bitmaps are all read through here, page by page. The
/// frames form a set-associative table. A reader finds its page's frame by tag, copies the words it wants, and then
/// checks that the frame's version has not moved (a sequence lock); only a miss takes a lock, one of 16, which covers
/// the aligned group of 16 pages that the page belongs to, so that a group is filled with one read.
package final class MetadataCache: Sendable {
    /// The size of a page in bytes.
    package static let pageBytes = 4096

    private static let ways = 8
    private static let groupPages = 16
    private static let lockCount = 16
    private static let wordsPerPage = pageBytes / 8

    /// What the pages come from.
    package let storage: any Storage

    private let setCount: Int
    private nonisolated(unsafe) let tags: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let versions: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let recentlyUsed: UnsafeMutablePointer<Atomic<Bool>>
    private nonisolated(unsafe) let hands: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let locks: UnsafeMutablePointer<Mutex<Int>>

    /// A cache of at most `limitBytes` bytes of pages (256 KiB at the least). Memory is touched as pages come in.
    package init(_ storage: any Storage, limitBytes: Int) {
        self.storage = storage
        let wanted = max(limitBytes, 256 << 10) / (Self.pageBytes * Self.ways)
        setCount = 1 << (Int.bitWidth - 1 - wanted.leadingZeroBitCount)
        let frames = setCount * Self.ways
        tags = .allocate(capacity: frames)
        versions = .allocate(capacity: frames)
        recentlyUsed = .allocate(capacity: frames)
        for frame in 0..<frames {
            (tags + frame).initialize(to: Atomic(0))
            (versions + frame).initialize(to: Atomic(0))
            (recentlyUsed + frame).initialize(to: Atomic(false))
        }
        hands = .allocate(capacity: setCount)
        for set in 0..<setCount { (hands + set).initialize(to: Atomic(0)) }
        // The words are plain integers whose first use is a store, so they need no initialisation, and untouched
        // frames cost no memory.
        words = .allocate(capacity: frames * Self.wordsPerPage)
        locks = .allocate(capacity: Self.lockCount)
        for index in 0..<Self.lockCount { (locks + index).initialize(to: Mutex(0)) }
    }

    deinit {
        for index in 0..<Self.lockCount { (locks + index).deinitialize(count: 1) }
        locks.deallocate()
        words.deallocate()
        hands.deallocate()
        recentlyUsed.deallocate()
        versions.deallocate()
        tags.deallocate()
    }

    /// Fills `buffer` with the metadata from `offset` on. Bytes past the end of the file read as zeros; a caller that
    /// must not see those has checked its table against the file's size. Each page is copied as one consistent
    /// snapshot. Throws `.io`, and `.corrupt` when the file has become shorter than it was.
    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) {
        var done = 0
        while done < buffer.count {
            let (position, overflow) = offset.rawValue.addingReportingOverflow(UInt64(done))
            guard !overflow else { throw ImageError(.corrupt, "metadata lies past the end of every file") }
            let page = position / UInt64(Self.pageBytes)
            let start = Int(position % UInt64(Self.pageBytes))
            let count = min(Self.pageBytes - start, buffer.count - done)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + count)])
            while !copy(page, from: start, into: part) { try load(page) }
            done += count
        }
    }

    /// How many bytes from `offset` on, up to `limit`, the host knows to be a hole, and so to be zeros: what lets a walk
    /// over a huge, empty table take one step. 0 when there is data. One system call. Throws `.io`.
    package func holeLength(at offset: HostOffset, limit: UInt64) throws(ImageError) -> UInt64 {
        guard offset.rawValue < storage.size else { return limit }
        guard let data = try storage.nextData(from: offset) else { return limit }
        return min(limit, data.rawValue - min(data.rawValue, offset.rawValue))
    }

    // MARK: - Lookup

    private func firstFrame(of page: UInt64) -> Int {
        let group = page / UInt64(Self.groupPages)
        let mixed = (group &* 0x9E37_79B9_7F4A_7C15) >> 20
        let set = (mixed &* UInt64(Self.groupPages) &+ page % UInt64(Self.groupPages)) & UInt64(setCount - 1)
        return Int(set) * Self.ways
    }

    private func frame(of page: UInt64) -> Int? {
        let first = firstFrame(of: page)
        for frame in first..<(first + Self.ways) where tags[frame].load(ordering: .acquiring) == page + 1 {
            return frame
        }
        return nil
    }

    /// Copies from a cached page; false when it is not cached, or was replaced meanwhile.
    private func copy(_ page: UInt64, from start: Int, into part: UnsafeMutableRawBufferPointer) -> Bool {
        guard let frame = frame(of: page) else { return false }
        let version = versions[frame].load(ordering: .acquiring)
        guard version & 1 == 0 else { return false }
        copyWords(frame, from: start, into: part)
        atomicMemoryFence(ordering: .acquiring)
        guard versions[frame].load(ordering: .relaxed) == version,
            tags[frame].load(ordering: .relaxed) == page + 1
        else { return false }
        if !recentlyUsed[frame].load(ordering: .relaxed) { recentlyUsed[frame].store(true, ordering: .relaxed) }
        return true
    }

    private func copyWords(_ frame: Int, from start: Int, into part: UnsafeMutableRawBufferPointer) {
        let page = words + frame * Self.wordsPerPage
        var done = 0
        while done < part.count {
            let position = start + done
            let word = page[position / 8].load(ordering: .relaxed)
            let skipped = position % 8
            let count = min(8 - skipped, part.count - done)
            if count == 8 {
                part.storeBytes(of: word, toByteOffset: done, as: UInt64.self)
            } else {
                for index in 0..<count {
                    part[done + index] = UInt8(truncatingIfNeeded: word.littleEndian >> UInt64((skipped + index) * 8))
                }
            }
            done += count
        }
    }

    // MARK: - Changing

    /// Runs `change`, which gives the storage new bytes for whole words of a page from `start` on, and shows the same bytes
    /// to readers from then on. Nothing is loaded from the page's group meanwhile.
    func update(_ page: UInt64, from start: Int, _ bytes: UnsafeRawBufferPointer, change: () -> Void) {
        let group = page / UInt64(Self.groupPages)
        (locks + Int(group % UInt64(Self.lockCount))).pointee.withLock { _ in
            change()
            if let frame = frame(of: page) { patch(frame, page, from: start, bytes) }
        }
    }

    /// Replaces words of a frame, unless another page takes it over first.
    private func patch(_ frame: Int, _ page: UInt64, from start: Int, _ bytes: UnsafeRawBufferPointer) {
        var version: UInt64 = 0
        while true {
            version = versions[frame].load(ordering: .relaxed)
            guard version & 1 == 0 else { continue }
            let claimed = versions[frame].compareExchange(
                expected: version, desired: version + 1, ordering: .acquiringAndReleasing)
            if claimed.exchanged { break }
        }
        atomicMemoryFence(ordering: .releasing)
        if tags[frame].load(ordering: .relaxed) == page + 1 {
            let target = words + frame * Self.wordsPerPage + start / 8
            for index in 0..<(bytes.count / 8) {
                target[index].store(bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self), ordering: .relaxed)
            }
        }
        versions[frame].store(version + 2, ordering: .releasing)
    }

    // MARK: - Filling

    /// Brings a page in. The first page of a group comes alone; when a neighbour is there already, a walk is under way
    /// and the rest of the group comes with it.
    private func load(_ page: UInt64) throws(ImageError) {
        let group = page / UInt64(Self.groupPages)
        let lock = locks + Int(group % UInt64(Self.lockCount))
        var failure: ImageError?
        lock.pointee.withLock { _ in
            guard frame(of: page) == nil else { return }
            let walks = page % UInt64(Self.groupPages) != 0 && frame(of: page - 1) != nil
            let count = walks ? Self.groupPages - Int(page % UInt64(Self.groupPages)) : 1
            do throws(ImageError) { try fill(page, count: count) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private func fill(_ first: UInt64, count: Int) throws(ImageError) {
        let offset = first &* UInt64(Self.pageBytes)
        var failure: ImageError?
        withUnsafeTemporaryAllocation(byteCount: count * Self.pageBytes, alignment: 16) { buffer in
            do throws(ImageError) {
                // The size before the read and after it: a writer may let the file grow or trim it meanwhile.
                let before = storage.size
                let read = try storage.read(at: HostOffset(offset), into: buffer)
                let size = min(before, storage.size)
                let expected = size > offset ? min(size - offset, UInt64(buffer.count)) : 0
                guard UInt64(read) >= expected else {
                    throw ImageError(.corrupt, "the file has become shorter while it was open", at: offset)
                }
                UnsafeMutableRawBufferPointer(rebasing: buffer[read...]).initializeMemory(as: UInt8.self, repeating: 0)
            } catch {
                failure = error
                return
            }
            for index in 0..<count where frame(of: first + UInt64(index)) == nil {
                let bytes = buffer[(index * Self.pageBytes)..<((index + 1) * Self.pageBytes)]
                store(first + UInt64(index), UnsafeRawBufferPointer(rebasing: bytes))
            }
        }
        if let failure { throw failure }
    }

    /// Puts a page into a frame of its set. The caller holds the group's lock; a set belongs to groups of more than one
    /// lock, so a frame is claimed by moving its version from even to odd. Every page starts at the next frame of its
    /// set, or the pages of one group would push each other out of a small cache as they come in.
    private func store(_ page: UInt64, _ bytes: UnsafeRawBufferPointer) {
        let first = firstFrame(of: page)
        let hand = Int(truncatingIfNeeded: hands[first / Self.ways].wrappingAdd(1, ordering: .relaxed).oldValue)
        var frame = first
        var version: UInt64 = 0
        var turn = 0
        while true {
            frame = first + (hand &+ turn) & (Self.ways - 1)
            turn &+= 1
            version = versions[frame].load(ordering: .relaxed)
            guard version & 1 == 0 else { continue }
            if recentlyUsed[frame].exchange(false, ordering: .relaxed), turn <= Self.ways { continue }
            let claimed = versions[frame].compareExchange(
                expected: version, desired: version + 1, ordering: .acquiringAndReleasing)
            if claimed.exchanged { break }
        }
        tags[frame].store(0, ordering: .relaxed)
        atomicMemoryFence(ordering: .releasing)
        let target = words + frame * Self.wordsPerPage
        for index in 0..<Self.wordsPerPage {
            target[index].store(bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self), ordering: .relaxed)
        }
        tags[frame].store(page + 1, ordering: .releasing)
        versions[frame].store(version + 2, ordering: .releasing)
    }
}
