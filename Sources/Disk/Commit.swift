internal import Bytes
internal import Formats
package import Storage
internal import Synchronization

/// Who commits. One batch is under way at a time; what is written meanwhile gathers for the next.
struct Commits {
    /// How many commits have begun.
    var started: UInt64 = 0
    /// How many have ended.
    var finished: UInt64 = 0
    /// The last that went well: everything that had been acknowledged when it began is durable.
    var succeeded: UInt64 = 0
    /// Whether a thread has the right to write metadata: to commit, to rest, to end the session.
    var isTaken = false
    /// How the last one that ended went.
    var failure: ImageError?
}

/// A batch and what becomes free with it.
struct KeptBatch: Sendable {
    var batch: Batch
    var dropped: [HostRun]
}

extension Disk {
    /// Makes everything durable that was acknowledged before, and returns then. Throws `.noSpace` where the host has no
    /// room for the metadata (it is tried again with the next flush), and `.io`, after which nothing more is written.
    package func flush() throws(ImageError) {
        guard let writer else { return }
        do throws(ImageError) { try writer.flush() } catch { throw reportCommit(error) }
    }

    /// Whether anything was written that a power loss might take and a flush would save; false on a poisoned image, where
    /// no flush saves anything any more. Cheap.
    package var hasUncommittedChanges: Bool {
        guard let writer, writer.hasUncommittedChanges else { return false }
        return !writer.isPoisoned.load(ordering: .relaxed)
    }
}

extension Writer {
    /// Group commit: returns when everything acknowledged before is durable.
    func flush() throws(ImageError) {
        guard !isPoisoned.load(ordering: .sequentiallyConsistent) else { throw .poisoned }
        guard hasUncommittedChanges else { return }
        try commit()
    }

    /// Commits so much that the next plan may add metadata. Called holding no lease, no gate and no plan.
    func throttle() throws(ImageError) {
        if driver.wantsCommit { try commit() }
    }

    /// Runs a commit that freezes after this call, or waits for one that another thread runs. Called holding no lease, no
    /// gate and no plan.
    func commit() throws(ImageError) {
        // What is frozen already may lack what the caller has just written, so the commit under way does not count.
        let wanted = commits.look { $0.started + 1 }
        let failure: ImageError?? = commits.wait { commits in
            // Also where a later one has failed before this thread came to look.
            if commits.succeeded >= wanted { return .some(.some(nil)) }
            if commits.finished >= wanted { return .some(.some(commits.failure)) }
            guard !commits.isTaken else { return nil }
            commits.isTaken = true
            commits.started += 1
            return .some(nil)
        }
        guard let failure else {
            try lead()
            return
        }
        if let failure { throw failure }
    }

    /// Runs the commit that this thread has begun, and wakes those who wait for it.
    private func lead() throws(ImageError) {
        var failure: ImageError?
        do throws(ImageError) { try runCommit() } catch { failure = error }
        commits.change { commits in
            commits.isTaken = false
            commits.finished = commits.started
            commits.failure = failure
            if failure == nil { commits.succeeded = commits.started }
            return true
        }
        // After the others have gone on, and only a little: giving space back is nothing that an fsync waits for.
        reclaim(atMost: Self.fewRuns)
        if let failure { throw failure }
    }

    /// Runs `body`, which writes metadata, while nobody commits.
    func alone(_ body: () throws(ImageError) -> Void) throws(ImageError) {
        _ = commits.wait { commits -> Bool? in
            guard !commits.isTaken else { return nil }
            commits.isTaken = true
            return true
        }
        defer {
            commits.change { commits in
                commits.isTaken = false
                return true
            }
        }
        try body()
    }

    // MARK: - The pipeline

    /// Writes out a batch that found no room, if there is one, and then all metadata as it is now. The caller has the right
    /// to commit. Returns whether there was any metadata. Throws `.noSpace`, and everything else after poisoning.
    @discardableResult
    func runCommit() throws(ImageError) -> Bool {
        guard !isPoisoned.load(ordering: .sequentiallyConsistent) else { throw .poisoned }
        // An fsync may have waited while the session was ended: everything is durable then.
        guard stage.load(ordering: .sequentiallyConsistent) != .finished else { return false }
        // What is counted now is with the host, so the first barrier covers it.
        let mark = changes.load(ordering: .acquiring)
        if let batch = kept.withLock({ $0 }) { try carryOut(batch) }
        // The notes before the freeze: a run that is noted has been dropped, so the batch holds its drop. The other way
        // round a drop that came after the freeze would count as durable with it.
        let notes = takeNotes()
        let batch: Batch?
        do throws(ImageError) { batch = try driver.freeze() } catch {
            note(notes)
            if error.kind != .noSpace { poison(error) }
            throw error
        }
        if let batch {
            try carryOut(KeptBatch(batch: batch, dropped: notes))
        } else {
            // No metadata: what was dropped had never reached the disk, or was given up unused.
            if mark != durable.load(ordering: .relaxed) { try barrier() }
            quarantine(notes)
        }
        // Another thread's barrier may have met the failure that was meant for this one.
        guard !isPoisoned.load(ordering: .sequentiallyConsistent) else { throw .poisoned }
        durable.store(mark, ordering: .releasing)
        return batch != nil
    }

    private func carryOut(_ work: KeptBatch) throws(ImageError) {
        do throws(ImageError) {
            for phase in work.batch.phases {
                for page in phase.pages { try file(page.file).write(at: page.offset, page.bytes) }
                if phase.hasBarrier { try barrier() }
            }
        } catch {
            if error.kind == .noSpace, !isPoisoned.load(ordering: .sequentiallyConsistent) {
                // Nothing is lost yet: the whole batch is written again later, from its first phase.
                kept.withLock { $0 = work }
            } else {
                poison(error)
            }
            throw error
        }
        kept.withLock { $0 = nil }
        driver.settle()
        quarantine(work.dropped + work.batch.freed)
    }

    /// Makes everything that is with the host durable, in every file of the image. After a failure nobody knows what
    /// arrived, and asking again would say success.
    func barrier() throws(ImageError) {
        for file in files where file.isWritable {
            do throws(ImageError) { try file.flush() } catch {
                poison(error)
                throw error
            }
        }
    }
}
