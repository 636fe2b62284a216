internal import Formats
internal import Logging
package import Storage
internal import Synchronization

/// What housekeeping remembers from one time to the next. The clock is looked at here alone: a write costs no time.
struct Idleness {
    /// The number of changes that was seen last.
    var changes: UInt64 = 0
    /// When that was first seen.
    var since = ContinuousClock.now
    /// When something that is not committed was first seen.
    var dirtySince: ContinuousClock.Instant?
    /// Whether the format has been told of this quiet time.
    var hasRested = false

    /// How many bytes had been written when that was last looked at.
    var written: UInt64 = 0

    /// What is due.
    enum Due {
        case nothing, commit, rest
    }

    static let commitAfter = Duration.milliseconds(50)
    static let commitLatest = Duration.seconds(5)
    static let retryAfter = Duration.seconds(1)
    static let restAfter = Duration.seconds(30)
    /// From how many bytes between two looks on somebody writes in bulk. Less may be overwritten before the host writes it.
    static let bulk: UInt64 = 8 << 20

    /// Whether the host should begin to write out, `written` bytes having been written so far.
    mutating func isBulk(written: UInt64) -> Bool {
        defer { self.written = written }
        return written &- self.written >= Self.bulk
    }

    /// What is due at `now`, with so many changes of which so many are durable.
    mutating func due(at now: ContinuousClock.Instant, changes: UInt64, durable: UInt64) -> Due {
        if changes != self.changes {
            self.changes = changes
            since = now
            hasRested = false
        }
        let quiet = now - since
        guard changes == durable else {
            let first = dirtySince ?? now
            dirtySince = first
            return quiet >= Self.commitAfter || now - first >= Self.commitLatest ? .commit : .nothing
        }
        dirtySince = nil
        guard !hasRested, changes > 0, quiet >= Self.restAfter else { return .nothing }
        hasRested = true
        return .rest
    }

    /// A commit has failed, for want of room; it is tried again after a while and not at once.
    mutating func failed(at now: ContinuousClock.Instant) {
        since = now + Self.retryAfter
        dirtySince = nil
    }
}

extension Disk {
    /// What has to be done now and then, by one thread, every 25 ms while there are uncommitted changes and every second
    /// otherwise: a commit when nothing was written for 50 ms or the oldest change is 5 s old, a rest after half a minute of
    /// quiet. Throws like `flush`.
    package func housekeep() throws(ImageError) {
        guard let writer else { return }
        do throws(ImageError) { try writer.housekeep(at: ContinuousClock.now) } catch {
            throw reportCommit(error)
        }
    }

    /// Whether `startWriteback` should be called now: 8 MiB or more were written since the last look, and no call is under
    /// way. For the thread that housekeeps.
    package func wantsWriteback() -> Bool { writer?.wantsWriteback() ?? false }

    /// Has the host begin to write out what was written, so that its disk works while bytes come in bulk and not only when
    /// somebody waits for a flush. Once for each time that `wantsWriteback` was true, by a thread that commits nothing: on a
    /// slow device it returns when the writer pauses.
    package func startWriteback() { writer?.startWriteback() }

    /// Commits all there is and tells the format that nothing is being written; what `housekeep` does after half a minute of
    /// quiet. Throws like `flush`.
    package func rest() throws(ImageError) {
        guard let writer else { return }
        do throws(ImageError) { try writer.rest() } catch { throw reportCommit(error) }
    }

    /// Ends the writable session: the last commit, and marks that the image is clean. Waits for the writes that are under
    /// way; later ones are refused, reads go on. The caller holds no transfer. Throws `.noSpace`, and may then be called
    /// again, and `.io`; whoever ends the session says so.
    package func finish() throws(ImageError) {
        guard let writer else { return }
        defer { writer.reportHoles() }
        do throws(ImageError) { try writer.finish() } catch { throw error.named(layers.first?.path ?? name) }
    }

    /// Says that bytes will be moved from the disk's files, by `feed`, and that the space they lie in must not be given out
    /// until `endTransfer`. Who holds one calls nothing that writes or commits.
    package func beginTransfer() -> Lease { leases?.begin() ?? .none }

    /// Ends what `beginTransfer` began; once.
    package func endTransfer(_ lease: Lease) { leases?.end(lease) }
}

extension Writer {
    /// A format may let a drop out one batch later, and that one another.
    private static let mostLastCommits = 16

    func housekeep(at now: ContinuousClock.Instant) throws(ImageError) {
        guard stage.load(ordering: .acquiring) == .open, !isPoisoned.load(ordering: .relaxed) else { return }
        reportHoles()
        let changes = changes.load(ordering: .acquiring)
        let durable = durable.load(ordering: .acquiring)
        switch idle.withLock({ $0.due(at: now, changes: changes, durable: durable) }) {
        case .nothing: reclaim(atMost: Self.manyRuns)
        case .commit:
            do throws(ImageError) { try commit() } catch {
                idle.withLock { $0.failed(at: now) }
                throw error
            }
            idle.withLock { $0.dirtySince = nil }
        case .rest: try rest()
        }
    }

    func wantsWriteback() -> Bool {
        guard stage.load(ordering: .acquiring) == .open, !isPoisoned.load(ordering: .relaxed),
            !isWritingBack.load(ordering: .acquiring)
        else { return false }
        let written = written.load(ordering: .relaxed)
        guard idle.withLock({ $0.isBulk(written: written) }) else { return false }
        isWritingBack.store(true, ordering: .relaxed)
        return true
    }

    func startWriteback() {
        for file in files where file.isWritable { file.startWriteback() }
        isWritingBack.store(false, ordering: .releasing)
    }

    /// Says, once, that space which is dropped stays the image's.
    func reportHoles() {
        guard !hasReportedHoles.load(ordering: .relaxed), let file = files.first(where: { $0.refusesHoles }),
            !hasReportedHoles.exchange(true, ordering: .relaxed)
        else { return }
        log.warning(
            """
            \(file.name): its filesystem cannot punch holes: what is discarded reads as zeros and may be used again, \
            but the host gets no space back
            """)
    }

    /// Commits what is left and tells the format that it is quiet.
    func rest() throws(ImageError) {
        try alone { () throws(ImageError) in
            guard stage.load(ordering: .acquiring) == .open else { return }
            try commitAll()
            try inOwnWords { () throws(ImageError) in try driver.rest() }
        }
        reclaim()
    }

    func finish() throws(ImageError) {
        try withStage { (stage) throws(ImageError) in
            switch stage.load(ordering: .acquiring) {
            case .finished: return
            case .unprepared:
                // Nothing was announced, so there is nothing to be taken back.
                stage.store(.finished, ordering: .sequentiallyConsistent)
                return
            case .open, .finishing: stage.store(.finishing, ordering: .sequentiallyConsistent)
            }
            // A change looks at the stage after its lease has begun, so those that saw the old one are waited for.
            leases.wait(for: leases.now)
            do throws(ImageError) { try alone { () throws(ImageError) in try close() } } catch {
                // Nothing is lost, and once there is room the session may go on or be ended again.
                if error.kind == .noSpace { stage.store(.open, ordering: .sequentiallyConsistent) }
                throw error
            }
        }
    }

    private func close() throws(ImageError) {
        try commitAll()
        if let epoch = dropped.withLock({ $0.waiting.last?.epoch }) { leases.wait(for: epoch) }
        reclaim()
        // What came back only now may have changed metadata once more.
        try commitAll()
        // What another thread still gives back comes before the stage changes, and later nothing is.
        reclaiming.withLock { _ in stage.store(.finished, ordering: .sequentiallyConsistent) }
        try inOwnWords { () throws(ImageError) in try driver.close() }
    }

    /// Commits until no metadata is left. The caller has the right to commit.
    private func commitAll() throws(ImageError) {
        for _ in 0..<Self.mostLastCommits {
            guard try runCommit() else { return }
            reclaim()
        }
    }

    /// Runs what a driver writes in an order of its own: where that fails for want of room nothing is lost, and everything
    /// else poisons.
    private func inOwnWords(_ body: () throws(ImageError) -> Void) throws(ImageError) {
        do throws(ImageError) { try body() } catch {
            if error.kind != .noSpace { poison(error) }
            throw error
        }
    }
}
