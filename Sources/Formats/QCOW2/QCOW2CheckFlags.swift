internal import Bytes
internal import Storage

extension QCOW2.Checker {
    /// What a walk over the COPIED flags of the active disk is for.
    enum FlagPass {
        /// To say which contradict the stored refcounts.
        case report
        /// To clear those that must not be set.
        case clear
        /// To set those that are missing.
        case set
    }

    private static let copied: UInt64 = 1 << 63

    /// Compares the COPIED flags of the active tables with the stored refcounts, and counts the disk's clusters.
    func checkCopiedFlags() throws(ImageError) {
        var allocated: UInt64 = 0
        try walkFlags(.report, allocated: &allocated)
        report.allocatedBytes = allocated * clusterSize
    }

    /// Clears or sets flags until they agree with what the refcounts are to be. Returns whether anything was written.
    func repairFlags(_ pass: FlagPass) throws(ImageError) -> Bool {
        var allocated: UInt64 = 0
        return try walkFlags(pass, allocated: &allocated)
    }

    /// Walks the active tables, each L2 table once.
    @discardableResult
    private func walkFlags(_ pass: FlagPass, allocated: inout UInt64) throws(ImageError) -> Bool {
        var seen: Set<UInt64> = []
        var hasWritten = false
        var clusters: UInt64 = 0
        let perTable = clusterSize / wordBytes
        try forEachEntry(at: header.l1Offset, bytes: UInt64(header.l1Size) * 8) {
            (place, entry, _) throws(ImageError) in
            let table = entry & QCOW2.Tables.offsetMask
            guard l2Weights[table] != nil else { return }
            if try settle(entry, at: place, cluster: table >> header.clusterBits, isTable: true, pass) {
                hasWritten = true
            }
            guard seen.insert(table).inserted else { return }
            let first = (place - header.l1Offset) / 8 * perTable
            try forEachEntry(at: table, bytes: clusterSize, width: wordBytes) {
                (place, entry, second) throws(ImageError) in
                let guest = first + (place - table) / wordBytes
                switch kind(of: entry, second) {
                case .none: return
                case .compressed: clusters += 1
                case .plain(let offset):
                    clusters += 1
                    if hasDataFile, pass == .report, offset >> header.clusterBits != guest {
                        addDamage(
                            "an L2 entry names another offset of the data file than its own", at: place,
                            nameOfL2(place))
                    }
                    if try settle(entry, at: place, cluster: offset >> header.clusterBits, isTable: false, pass) {
                        hasWritten = true
                    }
                }
            }
        }
        allocated = clusters
        return hasWritten
    }

    private enum Kind {
        case none
        case compressed
        case plain(UInt64)
    }

    /// What an L2 entry is to this walk; what was found impossible before is nothing.
    private func kind(of entry: UInt64, _ second: UInt64) -> Kind {
        if entry >> 62 & 1 == 1 { return second == 0 && !hasDataFile ? .compressed : .none }
        let offset = entry & QCOW2.Tables.offsetMask
        guard offset != 0 || (hasDataFile && entry & Self.copied != 0), offset & (clusterSize - 1) == 0 else {
            return .none
        }
        guard second >> 32 & second == 0 else { return .none }
        return .plain(offset)
    }

    /// Looks at one flag, and changes it where the pass says so. Returns whether it did.
    private func settle(
        _ entry: UInt64, at place: UInt64, cluster: UInt64, isTable: Bool, _ pass: FlagPass
    ) throws(ImageError) -> Bool {
        let isFree = hasDataFile && !isTable
        guard isFree || cluster < clusterCount || pass == .report else { return false }
        let isSet = entry & Self.copied != 0
        switch pass {
        case .report:
            guard isSet != (isFree || counts.marks(of: cluster).contains(.storedOne)) else { return false }
            report.add(
                refcountSeverity,
                isSet
                    ? "an entry has the COPIED flag, and its cluster's refcount is not 1"
                    : "an entry lacks the COPIED flag, and its cluster's refcount is 1",
                at: place, isTable ? nameOfL1(place) : nameOfL2(place),
                isRepaired: repairs && (isFree || cluster < clusterCount))
            return false
        case .clear, .set:
            let wanted = isFree || counts.marks(of: cluster).contains(.wantedOne)
            guard isSet != wanted, wanted == (pass == .set) else { return false }
            try change(place, to: entry ^ Self.copied)
            return true
        }
    }
}
