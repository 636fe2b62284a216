internal import Bytes
internal import Storage
internal import Synchronization

/// The session of a sparse image from its first change to its end.
extension VHDSparseDriver {
    func prepare() throws(ImageError) {
        guard let session else { throw .openForReading }
        try session.space.withLock { space throws(ImageError) in
            guard !space.isPrepared else { return }
            try repairEnd(session, &space)
            space.isPrepared = true
        }
    }

    /// Puts a footer that a crash has taken back at the end, and cuts off the space that a session which did not end left
    /// there.
    private func repairEnd(_ session: VHDSession, _ space: inout VHDSpace) throws(ImageError) {
        let target = table.alignedStart(space.next)
        let isMissing = session.isFooterMissing.load(ordering: .relaxed)
        guard isMissing || target + table.runBytes <= space.end else { return }
        try moveEnd(to: target, session, &space)
        session.isFooterMissing.store(false, ordering: .relaxed)
    }

    private func moveEnd(
        to end: UInt64, _ session: VHDSession, _ space: inout VHDSpace
    ) throws(ImageError) {
        do throws(ImageError) {
            try VHDSession.moveFooter(session.footer, to: end, in: session.storage)
        } catch {
            if error.kind == .io { session.poison() }
            throw error
        }
        space.end = end
        space.zeroFrom = end
        dataEnd.store(end, ordering: .releasing)
    }

    var wantsCommit: Bool { session.map { $0.store.dirtyBytes >= $0.dirtyLimit } ?? false }

    func freeze() throws(ImageError) -> Batch? {
        guard let session else { return nil }
        try session.checkHealth()
        // Under the lock, so that a new block's bitmap and entry are in one batch.
        return session.space.withLock { _ -> Batch? in
            let first = session.store.take(.first)
            let later = session.store.take(.later)
            guard !first.isEmpty || !later.isEmpty else { return nil }
            return Batch(phases: [Batch.Phase(first)] + (later.isEmpty ? [] : [Batch.Phase(later)]))
        }
    }

    func settle() { session?.store.settle() }

    /// Cuts off what the file was grown by and did not need.
    func close() throws(ImageError) {
        guard let session else { return }
        try session.space.withLock { space throws(ImageError) in
            guard space.isPrepared else { return }
            try session.checkHealth()
            let scan = try VHDScan(session.storage, table, parts: session.parts, dataEnd: space.end) {
                (flaw, block) throws(ImageError) in throw flaw.error(block, table)
            }
            let target = table.alignedStart(scan.usedEnd)
            guard target + table.runBytes <= space.end else { return }
            do throws(ImageError) { try moveEnd(to: target, session, &space) } catch {
                // The footer at the present end is whole: on a full host the file stays longer than it need be.
                guard error.kind == .noSpace else { throw error }
            }
        }
    }
}
