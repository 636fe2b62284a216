internal import Bytes
internal import Formats
internal import Logging
internal import Storage
internal import Synchronization

/// Host space that nothing points to any more and that must not be given out yet.
struct DroppedSpace {
    /// Runs whose drop is durable, and the epoch in which it was.
    struct Group {
        var epoch: UInt64
        var runs: [HostRun]
    }

    /// What was dropped since the last freeze.
    var noted: [HostRun] = []
    /// What waits for leases, the oldest first.
    var waiting: [Group] = []

    /// Takes up to `limit` runs of the groups whose epochs are over, the oldest first.
    mutating func take(atMost limit: Int, _ isOver: (UInt64) -> Bool) -> [HostRun] {
        var taken: [HostRun] = []
        // Never a copy of a group: its list would be copied with the change, and it may be long.
        while !waiting.isEmpty, taken.count < limit, isOver(waiting[0].epoch) {
            let count = min(waiting[0].runs.count, limit - taken.count)
            // From the end, which costs nothing.
            taken += waiting[0].runs.suffix(count)
            waiting[0].runs.removeLast(count)
            if waiting[0].runs.isEmpty { waiting.removeFirst() }
        }
        return taken
    }
}

extension Writer {
    /// Notes what a publish, a release or a cancel has dropped. Its drop is in the metadata already, so the batch that
    /// takes this note before it freezes holds the drop.
    func note(_ freed: [HostRun]) {
        guard !freed.isEmpty else { return }
        dropped.withLock { $0.noted += freed }
    }

    /// Takes the notes for a batch that is not frozen yet.
    func takeNotes() -> [HostRun] {
        dropped.withLock { dropped in
            defer { dropped.noted = [] }
            return dropped.noted
        }
    }

    /// The drop of `runs` is durable: what is left is that leases end.
    func quarantine(_ runs: [HostRun]) {
        guard !runs.isEmpty else { return }
        let joined = Self.joined(runs)
        dropped.withLock { $0.waiting.append(DroppedSpace.Group(epoch: leases.now, runs: joined)) }
    }

    /// How many runs are given back by who has something else to do.
    static let fewRuns = 64

    /// How many by housekeeping in one go, which must come to its next commit.
    static let manyRuns = 8192

    /// Gives back up to `limit` runs that no lease can reach any more; returns whether there was anything. Waits for nothing
    /// but another thread that does the same.
    @discardableResult
    func reclaim(atMost limit: Int = .max) -> Bool {
        guard dropped.withLock({ !$0.waiting.isEmpty }) else { return false }
        return reclaiming.withLock { _ in
            guard !isPoisoned.load(ordering: .sequentiallyConsistent) else { return false }
            guard stage.load(ordering: .sequentiallyConsistent) != .finished else { return false }
            let runs = dropped.withLock { $0.take(atMost: limit) { leases.isOver($0) } }
            giveBack(runs)
            if !runs.isEmpty { givenBack.wrappingAdd(1, ordering: .releasing) }
            return !runs.isEmpty
        }
    }

    private func giveBack(_ runs: [HostRun]) {
        var zeroed: [HostRun] = []
        var stale: [HostRun] = []
        for run in runs {
            // A decoded unit is known by its place, which may soon hold something else. Whoever read it from there held a
            // lease until it was in the cache, and those have ended.
            if driver.decoder != nil {
                decoded.drop(file: run.file.rawValue, from: run.offset, length: run.length)
            }
            if punch(run) { zeroed.append(run) } else { stale.append(run) }
        }
        if !zeroed.isEmpty { driver.reclaim(zeroed, zeroed: true) }
        if !stale.isEmpty { driver.reclaim(stale, zeroed: false) }
    }

    /// Whether the run has been punched. A host that fails at it leaves space that is used again as it is.
    private func punch(_ run: HostRun) -> Bool {
        let file = file(run.file)
        guard file.holds(run.offset, count: run.length) else { return false }
        do throws(ImageError) { return try file.punch(at: run.offset, count: run.length) } catch {
            log.warning("\(name): cannot give back space: \(error)")
            return false
        }
    }

    /// The runs in ascending order, neighbours joined.
    private static func joined(_ runs: [HostRun]) -> [HostRun] {
        var result: [HostRun] = []
        for run in runs.sorted(by: { ($0.file.rawValue, $0.offset) < ($1.file.rawValue, $1.offset) })
        where run.length > 0 {
            if let last = result.last, last.file == run.file,
                last.offset.rawValue &+ last.length == run.offset.rawValue
            {
                result[result.count - 1].length += run.length
            } else {
                result.append(run)
            }
        }
        return result
    }

    /// How many commits it may take until dropped space is free: a format may let a drop out one batch later.
    private static let mostRecoveries = 3

    /// Commits and waits for leases until dropped space can be given out; false where there is none. Called holding no
    /// lease, no gate and no plan.
    func recoverSpace() throws(ImageError) -> Bool {
        let before = givenBack.load(ordering: .acquiring)
        for _ in 0..<Self.mostRecoveries {
            try commit()
            if let epoch = dropped.withLock({ $0.waiting.last?.epoch }) { leases.wait(for: epoch) }
            reclaim()
            // Another thread may have given back what this one waited for.
            if givenBack.load(ordering: .acquiring) != before { return true }
        }
        return false
    }
}
