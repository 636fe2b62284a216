internal import Bytes
internal import Storage

/// What of an image's damage can be repaired without a doubt, and how.
struct VHDXDamage {
    /// The slot of the header whose copy is damaged (1 or 2).
    var header: Int?
    /// How many changes the log holds that were not applied; nil where it is not in use.
    var logChanges: Int?
    /// The good region table, the copy to write it to, and what is wrong with that one.
    var regionTable: (good: [UInt8], copy: Int, what: StaticString)?
    /// The size without unused space at the end of the file, in bytes; nil where there is none.
    var trimmedSize: UInt64?

    /// Whether there is anything to do. A log in use that changes nothing is no damage.
    private var isEmpty: Bool {
        header == nil && regionTable == nil && trimmedSize == nil && (logChanges ?? 0) == 0
    }

    /// Repairs everything in an image that can be read. Throws what writing throws; whatever was done until then is whole,
    /// and the same repair can be done again.
    func repair(_ storage: any Storage, _ foundation: VHDXFoundation) throws(ImageError) {
        guard !isEmpty else { return }
        if let replay = foundation.replay {
            try VHDXOpen.recover(storage, foundation.header, replay)
        } else {
            // Before anything else in the file changes, the header has to say that somebody writes; and twice, which
            // writes the damaged copy first.
            var header = try VHDXHeaderUpdate(storage, foundation.header)
            header.renewFileWrite()
            try header.write(to: storage)
            try header.write(to: storage)
        }
        if let (good, copy, _) = regionTable {
            // Only the copy is written that no reader uses, so that this needs no log: whatever a power loss leaves of it,
            // the other one counts.
            try storage.write(at: HostOffset(VHDXRegions.places[copy]), good)
            try storage.flush()
        }
        if let trimmedSize {
            try storage.resize(to: trimmedSize)
            try storage.flush()
        }
    }
}

extension VHDXCheck {
    /// Repairs what was found, where that is wanted, and reports it. `foundation` is nil where the image cannot be read:
    /// nothing of it is touched then.
    mutating func finish(_ foundation: VHDXFoundation?, repairs: Bool) throws(ImageError) {
        let end = foundation?.view.size ?? storage.size
        var isRepaired = false
        if repairs, let foundation {
            var safe = damage
            // Where an image is wrong in other ways something may still belong to its end.
            if report.corruptions > 0 { safe.trimmedSize = nil }
            try safe.repair(storage, foundation)
            isRepaired = true
        }
        addDamage(fileSize: end, isRepaired)
    }

    private mutating func addDamage(fileSize: UInt64, _ isRepaired: Bool) {
        let mayTrim = report.corruptions == 0
        if let header = damage.header {
            report.add(
                .corruption, "a header is damaged (signature or checksum); the other one is used",
                at: VHDXHeader.place(header), "header \(header)", isRepaired: isRepaired)
        }
        if let (_, copy, what) = damage.regionTable {
            report.add(
                .corruption, what, at: VHDXRegions.places[copy], "region table \(copy + 1)", isRepaired: isRepaired)
        }
        if let count = damage.logChanges, count > 0 {
            report.add(
                .note, "the log holds changes that are not applied yet; the check counts them in",
                detail: count.counted("change"), isRepaired: isRepaired)
        }
        if let size = damage.trimmedSize, size < fileSize {
            let count = (fileSize - size).dividedRoundingUp(by: VHDX.unit)
            report.add(
                .leak, "space at the end of the file belongs to nothing", at: size, detail: "\(count) MiB",
                isRepaired: isRepaired && mayTrim, count: count)
        }
    }
}
