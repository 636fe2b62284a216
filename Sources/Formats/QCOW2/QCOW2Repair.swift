internal import Bytes
internal import Storage

extension QCOW2 {
    /// Makes the refcounts and COPIED flags of an image right and clears its dirty bit, as a writable open of an image
    /// that was not closed must before its first write. `storage` is open for writing. Durable when it returns. Throws
    /// `.corrupt` where damage is left that cannot be repaired, `.unsupported`, `.noSpace` and `.io`.
    @discardableResult
    static func repair(_ storage: any Storage) throws(ImageError) -> CheckReport {
        let report = try Checker(storage, repairs: true).run()
        guard report.corruptions == 0 else {
            throw ImageError(
                .corrupt, "the image is damaged and cannot be written to; platter check says how",
                detail: report.corruptions.counted("finding"))
        }
        return report
    }
}

extension QCOW2.Checker {
    /// Makes refcounts and flags right.
    ///
    /// Each step leaves an image that is no worse than before, whenever the power fails: no cluster is ever given a refcount
    /// below its references, and a flag that allows writing in place is set only where a refcount of 1 is durable.
    func repair() throws(ImageError) {
        if needsRebuild { try rebuildRefcounts() } else { try barrier(writeRefcounts(raising: true)) }
        try barrier(repairFlags(.clear))
        if !needsRebuild { try barrier(writeRefcounts(raising: false)) }
        try barrier(repairFlags(.set))
        try clearBits()
    }

    private func barrier(_ isNeeded: Bool) throws(ImageError) {
        if isNeeded { try storage.flush() }
    }

    /// Writes one big-endian word of the image.
    func change(_ place: UInt64, to word: UInt64) throws(ImageError) {
        try beginChanging()
        try storage.write(at: HostOffset(place), (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - $0 * 8)) })
    }

    /// Clears the autoclear bits that nobody here knows, before the first change: what they announce may be wrong after it.
    func beginChanging() throws(ImageError) {
        guard !hasChanged else { return }
        hasChanged = true
        guard header.autoclear & ~3 != 0 else { return }
        try change(88, to: header.autoclear & 3)
        try storage.flush()
    }

    /// Raises or lowers refcounts in place. Returns whether anything was written.
    private func writeRefcounts(raising: Bool) throws(ImageError) -> Bool {
        var stored = [UInt64](repeating: 0, count: Int(QCOW2.ClusterCounts.segment))
        var hasWritten = false
        let limit = clusterLimit
        for segment in segments {
            try loadStored(segment, into: &stored)
            try forEachPart(of: segment) { (part) throws(ImageError) in
                guard part.index < UInt64(blocks.count), blocks[Int(part.index)] != 0 else { return }
                let base = segment * QCOW2.ClusterCounts.segment
                var differs = false
                for index in part.first..<(part.first + part.count) where base + UInt64(index) < limit {
                    let right = wanted(stored[index], counts.count(of: base + UInt64(index)))
                    guard raising ? right > stored[index] : right < stored[index] else { continue }
                    stored[index] = right
                    differs = true
                }
                guard differs else { return }
                var bytes = [UInt8](repeating: 0, count: part.byteCount)
                for index in 0..<part.count {
                    Self.store(stored[part.first + index], at: index, in: &bytes, order: header.refcountOrder)
                }
                try beginChanging()
                try storage.write(at: HostOffset(blocks[Int(part.index)] + part.byteOffset), bytes)
                hasWritten = true
            }
        }
        return hasWritten
    }

    /// Clears the dirty bit, and with it the corrupt bit, when nothing wrong is left. Everything else is durable by now.
    private func clearBits() throws(ImageError) {
        let marks: QCOW2.Incompatible = [.dirty, .corrupt]
        guard header.version >= 3, report.corruptions == 0, header.incompatible & marks.rawValue != 0 else { return }
        try change(72, to: header.incompatible & ~marks.rawValue)
        try storage.flush()
    }
}
