internal import Bytes
internal import Storage
internal import Synchronization

/// What is durable when: the beginning of a session, its batches, and its end ([MS-VHDX] 2.2.2.1, 2.3.3).
extension VHDXWriter {
    /// The metadata changed since the last batch.
    private struct Taken {
        var images: [VHDXLogWriter.Image]
        var newBitmaps: [UInt64]
        var size: VHDXLogWriter.FileSize
    }

    /// Nothing may change before the header announces it: FileWriteGuid for the file, DataWriteGuid for what a reader of the
    /// disk sees. One update carries both.
    func prepare() throws(ImageError) {
        try state.withLock { (state) throws(ImageError) in
            if state.space == nil { state.space = try VHDXScan.space(storage, table, lookup.regions) }
        }
        try session.withLock { (session) throws(ImageError) in
            guard !session.isPrepared else { return }
            var header = session.header
            header.renewFileWrite()
            header.renewDataWrite()
            try header.write(to: storage)
            session.header = header
            session.isPrepared = true
            // On a host that is full later, a commit needs the log. One that is full already may still have room in it.
            _ = try? storage.allocate(at: HostOffset(logOffset), count: min(logLength, Self.logRoom))
        }
    }

    /// So much of the log gets the host's space when a session begins, in bytes; a log as others make it is no longer.
    private static let logRoom: UInt64 = 4 << 20

    /// One entry's worth, with room for what the plans that are under way will add.
    var wantsCommit: Bool {
        let limit = min(96, VHDXLogWriter.pagesAtLeast(logLength: logLength))
        return store.dirtyBytes >= limit * Int(VHDXLog.sectorBytes)
    }

    // MARK: - Batches

    /// The batch in its phases:
    ///
    /// 0. Nothing, or the log's first entry; its barrier makes durable the guest's bytes, the zeros of new sector bitmaps,
    ///    the size of the file, and the pages that the batch before has left in place without one. So the log holds nothing
    ///    that is still needed, and the new sequence may begin with its own first entry.
    /// 1. Where the log comes into use, the header that names it. The entry is durable by then: a header whose log has
    ///    no valid entry would make the image unreadable.
    /// 2. The entries; their barrier is the moment of the commit.
    /// 3. The pages where they belong. No barrier: the next batch or the emptying of the log brings it.
    ///
    /// More pages than one sequence takes repeat 2 and 3. As a batch may be written again from its first phase, the
    /// sequences of such a one may be overwritten in any order; then an entry without content is put in front that
    /// outlasts them all, so that the log is never without a valid one.
    func freeze() throws(ImageError) -> Batch? {
        try session.withLock { (session) throws(ImageError) -> Batch? in
            guard let taken = take() else { return nil }
            let images = try inOrder(taken)
            var log = session.log ?? VHDXLogWriter(at: logOffset, length: logLength)
            var phases: [Batch.Phase] = []
            if session.log == nil {
                phases.append(Batch.Phase([log.makeAnchor(taken.size)]))
                session.header.setLog(log.guid)
                phases.append(Batch.Phase([Self.page(session.header.next())]))
            } else {
                phases.append(Batch.Phase([]))
                // Behind the barrier: the sequence before is needed until its pages are durable in place.
                if !log.fits(images.count) { phases.append(Batch.Phase([log.makeAnchor(taken.size)])) }
            }
            var rest = images[...]
            while !rest.isEmpty {
                let before = rest
                phases.append(Batch.Phase(log.sequence(of: &rest, taken.size)))
                let applied = before.prefix(before.count - rest.count)
                phases.append(Batch.Phase(Self.joined(applied), hasBarrier: !rest.isEmpty))
            }
            log.releaseAnchor()
            session.log = log
            return Batch(phases: phases)
        }
    }

    private func take() -> Taken? {
        state.withLock { state in
            let pages = store.take(.later)
            guard !pages.isEmpty else { return nil }
            let images = pages.flatMap { page in
                stride(from: 0, to: page.bytes.count, by: Int(VHDXLog.sectorBytes)).map { start in
                    VHDXLogWriter.Image(
                        offset: page.offset.rawValue + UInt64(start),
                        bytes: page.bytes[start..<(start + Int(VHDXLog.sectorBytes))])
                }
            }
            let taken = Taken(
                images: images, newBitmaps: state.newBitmaps, size: VHDXLogWriter.FileSize(storage.size))
            state.newBitmaps = []
            return taken
        }
    }

    /// The pages in the order in which a crash may cut them off: contents of sector bitmaps, the entries that name new
    /// ones, then the entries of blocks. A page of the table may hold entries of both sorts; so where more than one entry of
    /// the log is needed, pages with new bitmaps come twice: as they are on disk with nothing but those added, and as
    /// they shall be. Throws `.io`.
    private func inOrder(_ taken: Taken) throws(ImageError) -> [VHDXLogWriter.Image] {
        let tableEnd = table.offset + table.entryCount * VHDXTable.entryBytes
        func isTable(_ image: VHDXLogWriter.Image) -> Bool { image.offset >= table.offset && image.offset < tableEnd }
        let contents = taken.images.filter { !isTable($0) }
        let entries = taken.images.filter { isTable($0) }
        guard taken.images.count > VHDXLogWriter.maximumDescriptors else { return contents + entries }
        var bitmaps: [VHDXLogWriter.Image] = []
        for image in entries {
            let new = taken.newBitmaps.map { table.place(ofEntry: $0).rawValue }
                .filter { $0 / VHDXLog.sectorBytes == image.offset / VHDXLog.sectorBytes }
            guard !new.isEmpty else { continue }
            // Everything of the batch before is in the file itself.
            var page = try storage.bytes(at: HostOffset(image.offset), count: Int(VHDXLog.sectorBytes))
            for place in new {
                let start = Int(place - image.offset)
                let word = image.bytes.dropFirst(start).prefix(Int(VHDXTable.entryBytes))
                page.replaceSubrange(start..<(start + Int(VHDXTable.entryBytes)), with: word)
            }
            bitmaps.append(VHDXLogWriter.Image(offset: image.offset, bytes: page[...]))
        }
        return contents + bitmaps + entries
    }

    /// The pages of one sequence as they go to their places: each once, as its last entry has it; neighbours together.
    private static func joined(_ images: ArraySlice<VHDXLogWriter.Image>) -> [Batch.Page] {
        var last: [UInt64: ArraySlice<UInt8>] = [:]
        for image in images { last[image.offset] = image.bytes }
        var pages: [Batch.Page] = []
        for (offset, bytes) in last.sorted(by: { $0.key < $1.key }) {
            if let end = pages.last, end.offset.rawValue + UInt64(end.bytes.count) == offset {
                pages[pages.count - 1].bytes += bytes
            } else {
                pages.append(Batch.Page(file: .image, offset: HostOffset(offset), bytes: Array(bytes)))
            }
        }
        return pages
    }

    private static func page(_ copy: VHDXHeaderUpdate.Copy) -> Batch.Page {
        Batch.Page(file: .image, offset: copy.offset, bytes: copy.bytes)
    }

    // MARK: - Rest and close

    /// Empties the log, so that the image opens anywhere as it is.
    func rest() throws(ImageError) {
        try session.withLock { (session) throws(ImageError) in try drain(&session) }
    }

    private func drain(_ session: inout Session) throws(ImageError) {
        guard session.log != nil else { return }
        // The pages of the last batch must be durable in place before the log that holds them is given up.
        try storage.flush()
        var header = session.header
        header.setLog(.zero)
        try header.write(to: storage)
        session.header = header
        session.log = nil
    }

    /// The end of the session: an empty log, a file that ends with its last block, and two copies of the header that say
    /// the same. The file may only become shorter when no log says how long it is.
    func close() throws(ImageError) {
        try session.withLock { (session) throws(ImageError) in
            guard session.isPrepared else { return }
            try drain(&session)
            try trim()
            var header = session.header
            try header.write(to: storage)
            session.header = header
            session.isPrepared = false
        }
    }

    private func trim() throws(ImageError) {
        let end = state.withLock { state -> UInt64? in
            guard let space = state.space, space.hasChanged else { return nil }
            return space.usedEnd * VHDX.unit
        }
        guard let end, end < storage.size else { return }
        try storage.resize(to: end)
    }
}
