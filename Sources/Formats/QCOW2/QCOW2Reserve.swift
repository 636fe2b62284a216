internal import Bytes
internal import Storage

extension QCOW2.WriteState {
    /// What `reserve` notes for `publish`.
    struct PlanRecord {
        /// The guest range of the plan.
        var range: ByteRange
        /// Where the first cluster of it goes, in the file that holds the data; the others follow.
        var host: UInt64
        /// Whether the host clusters were taken for this plan, or are those that the entries name already.
        var isNew: Bool
    }

    /// Where the bytes of a cluster can go.
    private enum Target: Equatable {
        /// To the host cluster at this offset, which the entry names, or the data file has for it.
        case present(UInt64)
        /// To a new one.
        case new
    }

    /// A plan has at most so many clusters.
    private static var mostClusters: UInt64 { 4096 }

    /// What `FormatDriver.reserve` says. A plan stays within one L2 table, and its clusters follow each other on the host.
    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        try checkUsable()
        let first = range.lower >> clusterBits
        let tableEnd = ((range.lower >> tables.tableBits) + 1) << tables.tableBits
        let last = (min(range.upper, tableEnd) - 1) >> clusterBits
        let table = try ownTable(for: range.lower)
        let target = try self.target(of: first, try state(of: first, in: table))
        let wanted = try alike(target, from: first, to: min(last, first + Self.mostClusters - 1), in: table)
        var (host, count, isFresh): (UInt64, UInt64, Bool)
        switch target {
        case .present(let offset):
            (host, count, isFresh) = (offset, wanted, false)
            try extendData(from: first, to: first + count, host: host)
        case .new:
            let found = try allocate(wanted)
            (host, count, isFresh) = (found.first << clusterBits, found.count, found.isFresh)
        }
        let covered = ByteRange(range.lower, to: min(range.upper, (first + count) << clusterBits))
        let record = PlanRecord(range: covered, host: host, isNew: target == .new)
        do throws(ImageError) {
            return try plan(record, isFresh: isFresh, in: table)
        } catch {
            if target == .new { abandon(host >> clusterBits, count: count) }
            throw error
        }
    }

    /// How many clusters from `first` up to `last` go to the same kind of target, behind each other.
    private func alike(
        _ target: Target, from first: UInt64, to last: UInt64, in table: UInt64
    ) throws(ImageError) -> UInt64 {
        var count: UInt64 = 1
        while first + count <= last {
            let next = try self.target(of: first + count, try state(of: first + count, in: table))
            switch (target, next) {
            case (.new, .new): break
            case (.present(let host), .present(let other)) where host + count << clusterBits == other: break
            default: return count
            }
            count += 1
        }
        return count
    }

    /// Where a write of the guest's `cluster` goes. A cluster without the COPIED flag whose only reference is this one gets
    /// the flag with the plan. Throws `.corrupt` and `.io`.
    private func target(of cluster: UInt64, _ state: QCOW2.ClusterState) throws(ImageError) -> Target {
        if hasDataFile { return .present(cluster << clusterBits) }
        guard case .cluster(let offset, let isCopied) = state.host else { return .new }
        let host = offset >> clusterBits
        guard host > 0, !regions.contains(host) else {
            throw ImageError(.corrupt, "an L2 entry leads into the image's metadata", at: offset)
        }
        if isCopied { return .present(offset) }
        guard try references(to: host) > 0 else {
            throw ImageError(.corrupt, "a cluster in use has refcount 0", at: offset)
        }
        // A reference that was dropped is there after a power loss, until the drop is durable and counted.
        return try refcount(of: host) == 1 ? .present(offset) : .new
    }

    /// Makes sure that the file that holds the data reaches over clusters that it has already. A file may end inside a
    /// cluster; one that ends before it was cut off.
    private func extendData(from first: UInt64, to end: UInt64, host: UInt64) throws(ImageError) {
        let upper = host + (end - first) << clusterBits
        guard hasDataFile else {
            guard host + (end - first - 1) << clusterBits < imageFile.size else {
                throw ImageError(.corrupt, "an L2 entry leads past the end of the file that holds the data", at: host)
            }
            return try extendImage(to: upper)
        }
        let needed = min(upper, tables.virtualSize)
        if dataFile.size < needed { try dataFile.resize(to: needed) }
    }

    // MARK: - The plan

    /// Makes the plan of a record, with what must be filled in the first and the last cluster.
    private func plan(_ record: PlanRecord, isFresh: Bool, in table: UInt64) throws(ImageError) -> WritePlan {
        let first = record.range.lower >> clusterBits
        let last = (record.range.upper - 1) >> clusterBits
        var fills: [WritePlan.Fill] = []
        for cluster in first == last ? [first] : [first, last] {
            let state = try state(of: cluster, in: table)
            let need = needed(record, cluster, state)
            let host = record.host + (cluster - first) << clusterBits
            addFills(need, cluster, host: host, isFresh: isFresh, around: record.range, to: &fills)
            if !isFresh, need != 0 { try clearBehindDisk(cluster, host: host) }
        }
        var runs = ExtentList(for: record.range)
        runs.append(
            .data(file: dataSlot, offset: HostOffset(record.host + record.range.lower & (clusterSize - 1))),
            length: record.range.length)
        let token = nextToken
        nextToken += 1
        plans[token] = record
        return WritePlan(range: record.range, runs: runs, fills: fills, token: token, isKnownZero: isFresh)
    }

    /// The subclusters of `cluster` that get their first bytes on the target: those that the plan writes to and, where they
    /// move to another host cluster, all that have bytes now.
    private func needed(_ record: PlanRecord, _ cluster: UInt64, _ state: QCOW2.ClusterState) -> UInt32 {
        let covered = covered(by: record.range, of: cluster)
        return record.isNew ? covered | state.allocated : covered & ~state.allocated
    }

    /// The subclusters of `cluster` that `range` touches.
    func covered(by range: ByteRange, of cluster: UInt64) -> UInt32 {
        let start = cluster << clusterBits
        return rules.subclusters(
            from: max(range.lower, start) - start, to: min(range.upper, start + clusterSize) - start)
    }

    /// Adds what of the subclusters `need` the plan's own range does not write, within the disk.
    private func addFills(
        _ need: UInt32, _ cluster: UInt64, host: UInt64, isFresh: Bool, around written: ByteRange,
        to fills: inout [WritePlan.Fill]
    ) {
        let start = cluster << clusterBits
        var index: UInt64 = 0
        while need >> UInt32(truncatingIfNeeded: index) != 0 {
            let rest = need >> UInt32(truncatingIfNeeded: index)
            index += UInt64(rest.trailingZeroBitCount)
            let length = UInt64((~(need >> UInt32(truncatingIfNeeded: index))).trailingZeroBitCount)
            let lower = start + index << rules.subclusterBits
            let upper = min(start + (index + length) << rules.subclusterBits, tables.virtualSize)
            for range in [
                ByteRange(lower, to: min(upper, written.lower)), ByteRange(max(lower, written.upper), to: upper),
            ] where !range.isEmpty {
                let target = HostRun(
                    file: dataSlot, offset: HostOffset(host + range.lower - start), length: range.length)
                fills.append(WritePlan.Fill(range: range, target: target, isKnownZero: isFresh))
            }
            index += length
        }
    }

    /// The last cluster may reach past the end of the disk, where nothing is ever written: what a cluster that was used
    /// before holds there must not come to light when the disk is made larger one day.
    private func clearBehindDisk(_ cluster: UInt64, host: UInt64) throws(ImageError) {
        let start = cluster << clusterBits
        guard !hasDataFile, tables.virtualSize < start + clusterSize else { return }
        let held = tables.virtualSize - start
        try imageFile.zero(at: HostOffset(host + held), count: clusterSize - held)
    }

    // MARK: - The end of a plan

    /// What `FormatDriver.publish` says. Where it fails, the clusters whose entries were not changed are given back.
    func publish(_ token: UInt64, freed: inout [HostRun]) throws(ImageError) {
        guard let record = plans.removeValue(forKey: token) else { return }
        let first = record.range.lower >> clusterBits
        let end = (record.range.upper - 1) >> clusterBits + 1
        var published = first
        do throws(ImageError) {
            try checkUsable()
            let table = try ownTable(for: record.range.lower)
            try changeEntries(of: first..<end, in: table, freed: &freed) {
                (cluster, state, drops) throws(ImageError) in
                let old = state
                let covered = self.covered(by: record.range, of: cluster)
                let host = record.host + (cluster - first) << self.clusterBits
                if record.isNew { self.addHostClusters(of: old.host, to: &drops) }
                state.allocated = old.allocated | covered
                state.zero = old.zero & ~state.allocated
                state.host = .cluster(host, isCopied: true)
            } done: {
                published = $0
            }
        } catch {
            if record.isNew { giveBack(record, from: published, freed: &freed) }
            throw error
        }
    }

    /// What `FormatDriver.cancel` says.
    func cancel(_ token: UInt64, freed: inout [HostRun]) {
        guard let record = plans.removeValue(forKey: token), record.isNew else { return }
        giveBack(record, from: record.range.lower >> clusterBits, freed: &freed)
    }

    /// Frees the clusters of a plan that belong to the guest's clusters from `cluster` on, to which nothing points.
    private func giveBack(_ record: PlanRecord, from cluster: UInt64, freed: inout [HostRun]) {
        let first = record.range.lower >> clusterBits
        let end = (record.range.upper - 1) >> clusterBits + 1
        guard cluster < end else { return }
        let host = record.host >> clusterBits
        drop(Array((host + cluster - first)..<(host + end - first)), freed: &freed)
    }

    /// Gives clusters back that nobody has written to yet.
    private func abandon(_ first: UInt64, count: UInt64) {
        for cluster in first..<(first + count) { dropped[cluster, default: 0] += 1 }
        reclaim([run(first, count: count)])
    }
}
