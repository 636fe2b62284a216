internal import Bytes
package import Storage

extension QCOW2 {
    /// Counts every reference to every cluster anew and compares with the refcounts that the image stores. What is found
    /// is counted as `qemu-img check` counts it: a refcount too low, a wrong COPIED flag and an impossible entry are
    /// corruptions, a refcount too high is a leak.
    package static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        let checker = try Checker(request.storage, repairs: repairs)
        return try checker.run()
    }

    /// One check of one image, and its repair. For one thread.
    ///
    /// The work is bounded by the bytes that the file really has, whatever its tables claim: each cluster of a table is
    /// read once for structure with the number of tables that share it as its weight, and holes of the host are skipped.
    final class Checker {
        let storage: any Storage
        let header: Header
        let extensions: Extensions
        let repairs: Bool
        let counts: ClusterCounts
        var report = CheckReport()
        /// Where the L1 tables begin, the active one's and the snapshots', ascending.
        var l1Tables: [UInt64] = []
        /// The L2 tables that lie within the file, with the number of L1 entries that name each.
        var l2Weights: [UInt64: UInt64] = [:]
        /// The refcount blocks by index: where each is, or 0 for none that can be used.
        var blocks: [UInt64] = []
        /// The clusters of all blocks that the table names within the file.
        var blockClusters: Set<UInt64> = []
        /// Whether something is wrong in what leads to clusters: then more may be in use than was counted, and nothing is
        /// given back.
        var isTreeDamaged = false
        /// Whether something is named that would lie past the end of the file: what is put there would become that.
        var namesPastEnd = false
        /// Whether the refcount structures must be made anew before a refcount can be trusted.
        var needsRebuild = false
        /// The stretches of the file, as `ClusterCounts` numbers them, in which a refcount is stored or a reference counted.
        var segments: [UInt64] = []
        /// Whether a repair has changed something already.
        var hasChanged = false
        /// Where the refcount table is, and its length in clusters.
        var tableOffset: UInt64
        var tableClusters: UInt64
        /// The size of the image file in bytes. A repair may extend it.
        var fileSize: UInt64

        /// Distinct L2 tables beyond this are more than any file is made with, and would take too much memory.
        static let l2Limit = 1 << 24

        var clusterSize: UInt64 { header.clusterSize }
        /// The clusters of the file, the last maybe cut off.
        var clusterCount: UInt64 { fileSize.dividedRoundingUp(by: clusterSize) }
        /// The clusters that can have a refcount: a compressed cluster may reach into one behind the end of the file.
        var clusterLimit: UInt64 { clusterCount + (counts.count(of: clusterCount) > 0 ? 1 : 0) }
        /// How many refcounts a block holds.
        var perBlock: UInt64 { (clusterSize << 3) >> UInt64(header.refcountOrder) }
        /// The largest refcount that fits.
        var largestRefcount: UInt64 { header.refcountOrder == 6 ? .max : 1 << (1 << UInt64(header.refcountOrder)) - 1 }
        var hasDataFile: Bool { header.has(.externalDataFile) }
        var wordBytes: UInt64 { header.has(.extendedL2) ? 16 : 8 }

        /// Reads the header of the image in `storage`; counts take at most `mostBytes` of memory. Throws what keeps the image
        /// from being checked: `.malformed`, `.unsupported`, `.corrupt` (no L1 table to begin with) and `.io`.
        init(_ storage: any Storage, repairs: Bool, mostBytes: Int = 2 << 30) throws(ImageError) {
            self.storage = storage
            self.repairs = repairs
            header = try Header(reading: storage)
            extensions = try Extensions(reading: storage, header)
            try header.checkFeatures(names: extensions.featureNames)
            let place = try storage.bytes(at: HostOffset(48), count: 12)
            tableOffset = place.span.bytes.big(at: 0)
            tableClusters = UInt64(place.span.bytes.big(UInt32.self, at: 8))
            fileSize = storage.size
            _ = try header.activeTables(fileSize: fileSize)
            counts = ClusterCounts(limitBytes: min(try Self.memoryLimit(storage), mostBytes))
        }

        /// The memory for counts. A file cannot hold more references than its bytes on the host, so a small file that
        /// names places all over a huge one stops early.
        private static func memoryLimit(_ storage: any Storage) throws(ImageError) -> Int {
            let bytes = try storage.allocatedBytes()
            return Int(min(min(bytes, 1 << 40) * 16 + 64 << 20, 2 << 30))
        }

        /// Checks, and repairs where that was asked for. Throws `.unsupported`, `.noSpace` and `.io`.
        func run(afterRebuild: Bool = false) throws(ImageError) -> CheckReport {
            noteFeatures()
            try countAll()
            try readRefcountTable()
            try compareRefcounts()
            try checkCopiedFlags()
            if repairs, needsRebuild, namesPastEnd { return try withoutRepairs() }
            if repairs { try repair() }
            // The old refcounts were references too, and what they shared with others is now theirs alone.
            if repairs, needsRebuild, !afterRebuild {
                _ = try QCOW2.Checker(storage, repairs: true).run(afterRebuild: true)
            }
            if header.has(.corrupt) {
                report.add(
                    .note, "a program that wrote to the image marked it as corrupt", at: 72,
                    isRepaired: repairs && report.corruptions == 0)
            }
            return report
        }

        /// The report of a check alone. New refcounts go to the end of the file, and would lie where entries of the image
        /// lead already: a damaged image would get worse.
        private func withoutRepairs() throws(ImageError) -> CheckReport {
            var report = try QCOW2.Checker(storage, repairs: false).run()
            report.add(
                .note, "nothing was repaired: the file was cut short, and its refcounts cannot be put at its end",
                at: nil)
            return report
        }

        private func noteFeatures() {
            if header.has(.dirty) {
                report.add(
                    .note, "the image was not closed cleanly, so its refcounts may be wrong", at: 72,
                    isRepaired: repairs)
            }
        }

        /// How bad a wrong refcount is: of an image that was not closed it is to be expected.
        var refcountSeverity: CheckReport.Severity { header.has(.dirty) ? .note : .corruption }

        /// Notes damage in what leads to clusters, in an entry that `count` disks of the image share. It is not repaired:
        /// nobody knows what should be there.
        func addDamage(
            _ what: StaticString, at offset: UInt64?, _ entry: @autoclosure () -> String? = nil,
            detail: @autoclosure () -> String? = nil, count: UInt64 = 1, isPastEnd: Bool = false
        ) {
            isTreeDamaged = true
            if isPastEnd { namesPastEnd = true }
            report.add(.corruption, what, at: offset, entry(), detail: detail(), count: count)
        }

        /// Counts `weight` references to the `bytes` bytes at `offset`, which the entry at byte `place` names. A range
        /// that ends a cluster or more behind the file is damage; less than that is a last cluster which was not written
        /// to its end. Returns whether it was counted.
        @discardableResult
        func mark(
            _ offset: UInt64, bytes: UInt64, weight: UInt64 = 1, as use: ClusterCounts.Marks, from place: UInt64?,
            _ entry: @autoclosure () -> String? = nil
        ) throws(ImageError) -> Bool {
            guard bytes > 0 else { return true }
            guard let end = offset.checkedAdding(bytes), end < fileSize || end - fileSize < clusterSize else {
                addDamage(
                    "a place is named that lies past the end of the file", at: place, entry(),
                    detail: "names \(CheckReport.hex(offset))", count: use == .data ? weight : 1, isPastEnd: true)
                return false
            }
            for cluster in (offset >> header.clusterBits)...((end - 1) >> header.clusterBits) {
                try counts.add(cluster, weight: weight, as: use)
            }
            return true
        }

        /// Calls `body` with every entry of a table that is not zero: its place and its first two words, of which the second
        /// is 0 where entries have one. Holes of the host's file are skipped; bytes past its end are zero.
        func forEachEntry(
            at offset: UInt64, bytes: UInt64, width: UInt64 = 8,
            _ body: (_ place: UInt64, _ first: UInt64, _ second: UInt64) throws(ImageError) -> Void
        ) throws(ImageError) {
            let end = offset + min(bytes, fileSize - min(offset, fileSize))
            var position = offset
            var buffer = [UInt8](repeating: 0, count: 64 << 10)
            while position < end {
                guard let data = try storage.nextData(from: HostOffset(position)) else { return }
                if data.rawValue > position { position += (data.rawValue - position) & ~(width - 1) }
                guard position < end else { return }
                let count = Int(min(end - position, UInt64(buffer.count)))
                let read = try Self.read(storage, at: position, into: &buffer, count: count)
                if read < count { for index in read..<count { buffer[index] = 0 } }
                let span = buffer.span.bytes
                for index in stride(from: 0, through: count - Int(width), by: Int(width)) {
                    let first: UInt64 = span.big(at: index)
                    let second: UInt64 = width == 16 ? span.big(at: index + 8) : 0
                    if first | second != 0 { try body(position + UInt64(index), first, second) }
                }
                position += UInt64(count)
            }
        }

        private static func read(
            _ storage: any Storage, at offset: UInt64, into buffer: inout [UInt8], count: Int
        ) throws(ImageError) -> Int {
            var read = 0
            var failure: ImageError?
            buffer.withUnsafeMutableBytes { bytes in
                let part = UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
                do throws(ImageError) { read = try storage.read(at: HostOffset(offset), into: part) } catch {
                    failure = error
                }
            }
            if let failure { throw failure }
            return read
        }
    }
}
