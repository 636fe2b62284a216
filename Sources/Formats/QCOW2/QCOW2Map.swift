internal import Bytes
internal import Storage

extension QCOW2 {
    /// The driver of one disk of a qcow2 image: the active one or a snapshot.
    final class Driver: FormatDriver {
        let shape: DiskShape
        let files: [any Storage]
        let parent: ParentReference?
        let decoder: (any BlockDecoder)?

        private let image: OpenImage
        private let isSnapshot: Bool
        let tables: Tables
        let rules: EntryRules
        private let cache: MetadataCache
        let imageFile: any Storage
        let dataFile: any Storage
        let dataSlot: FileSlot
        /// What changes the image; nil where it is open for reading, and in snapshots.
        let writer: Writer?

        /// How many table entries one `map` looks at before it stops early.
        private static let walkLimit: UInt64 = 1 << 17
        /// How many words of a table are copied at a time: 1 KiB, which stays on the stack.
        static let batchWords = 128
        /// From here on a walk asks the host for holes in a table, at the start of each page.
        private static let holePage: UInt64 = 4096

        /// The disk that `tables` describes.
        init(
            _ image: OpenImage, _ tables: Tables, shape: DiskShape, isSnapshot: Bool = false, writer: Writer? = nil
        ) {
            self.image = image
            self.writer = writer
            self.tables = tables
            self.shape = shape
            self.isSnapshot = isSnapshot
            files = image.files
            parent = image.parent
            decoder = image.decoder
            rules = EntryRules(image.header)
            cache = image.cache
            dataSlot = image.dataSlot
            imageFile = image.files[0]
            dataFile = image.files[Int(image.dataSlot.rawValue)]
        }

        /// A snapshot has none of its own: the list belongs to the active disk.
        var snapshots: [SnapshotInfo] { isSnapshot ? [] : image.snapshots.infos }

        func openSnapshot(_ index: Int) throws(ImageError) -> any FormatDriver {
            guard !isSnapshot, image.snapshots.entries.indices.contains(index) else {
                throw ImageError(.outOfRange, "the image has no such snapshot")
            }
            let entry = image.snapshots.entries[index]
            let tables = try entry.tables(image.header, fileSize: imageFile.size)
            var shape = self.shape
            shape.virtualSize = tables.virtualSize
            return Driver(image, tables, shape: shape, isSnapshot: true)
        }

        func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
            guard !runs.isComplete else { return }
            var budget = Self.walkLimit
            do throws(ImageError) {
                while budget > 0, try mapTable(into: &runs, &budget) {}
            } catch {
                // Damage further on ends the answer early; who asks again from there gets the error.
                guard runs.covered > 0 else { throw error }
            }
        }

        // MARK: - L1

        /// Maps what one L1 entry, or a run of empty ones, says about the rest of the range. False when nothing more can
        /// be added.
        private func mapTable(into runs: inout ExtentList, _ budget: inout UInt64) throws(ImageError) -> Bool {
            let position = runs.remaining.lower
            let index = position >> tables.tableBits
            let place = tables.l1Offset + index * 8
            var entry: UInt64 = 0
            try readWord(at: place, into: &entry)
            let table = try tables.l2Table(entry, at: place, fileSize: imageFile.size)
            guard table == 0 else { return try mapClusters(of: table, into: &runs, &budget) }
            let last = (runs.range.upper - 1) >> tables.tableBits
            let more = try emptyEntries(from: place + 8, wordsEach: 1, limit: last - index, &budget)
            budget -= min(budget, 1)
            return runs.append(.hole, length: (index + 1 + more) << tables.tableBits - position)
        }

        func readWord(at place: UInt64, into word: inout UInt64) throws(ImageError) {
            var raw: UInt64 = 0
            var failure: ImageError?
            withUnsafeMutableBytes(of: &raw) { buffer in
                do throws(ImageError) { try cache.read(at: HostOffset(place), into: buffer) } catch { failure = error }
            }
            if let failure { throw failure }
            word = UInt64(bigEndian: raw)
        }

        /// How many entries of all zeros follow each other from `place` on, up to `limit` or the end of the budget: what
        /// lets a walk over a huge, empty table take few steps.
        private func emptyEntries(
            from place: UInt64, wordsEach: UInt64, limit: UInt64, _ budget: inout UInt64
        ) throws(ImageError) -> UInt64 {
            let entryBytes = wordsEach * 8
            var count: UInt64 = 0
            while count < limit, budget > 0 {
                let position = place + count * entryBytes
                let left = (limit - count) * entryBytes
                if left >= Self.holePage, position & (Self.holePage - 1) == 0 {
                    let hole = try cache.holeLength(at: HostOffset(position), limit: left) / entryBytes
                    count += hole
                    budget -= 1
                    if hole > 0 { continue }
                }
                // Batches end with their page, so that the next one may begin with a question about holes.
                let toPage = (Self.holePage - position & (Self.holePage - 1)) / entryBytes
                let wanted = min(limit - count, budget, UInt64(Self.batchWords) / wordsEach, toPage)
                let empty = try leadingEmptyEntries(at: position, count: wanted, wordsEach: wordsEach)
                count += empty
                budget -= wanted
                if empty < wanted { break }
            }
            return count
        }

        private func leadingEmptyEntries(
            at place: UInt64, count: UInt64, wordsEach: UInt64
        ) throws(ImageError) -> UInt64 {
            try withWords(at: place, count: Int(count * wordsEach)) { words throws(ImageError) in
                let first = words.firstIndex { $0 != 0 } ?? words.count
                return UInt64(first) / wordsEach
            }
        }

        /// Copies up to `batchWords` words, still big-endian, to the stack and hands them to `body`.
        func withWords<Result>(
            at place: UInt64, count: Int, _ body: (UnsafeBufferPointer<UInt64>) throws(ImageError) -> Result
        ) throws(ImageError) -> Result {
            try withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Self.batchWords) {
                words throws(ImageError) -> Result in
                let part = UnsafeMutableBufferPointer(rebasing: words[..<count])
                try cache.read(at: HostOffset(place), into: UnsafeMutableRawBufferPointer(part))
                return try body(UnsafeBufferPointer(part))
            }
        }

        // MARK: - L2

        /// Maps the clusters that one L2 table describes, from the start of what is missing. False when nothing more can
        /// be added.
        private func mapClusters(
            of table: UInt64, into runs: inout ExtentList, _ budget: inout UInt64
        ) throws(ImageError) -> Bool {
            let wordsEach: UInt64 = rules.hasSubclusters ? 2 : 1
            var index = (runs.remaining.lower >> tables.clusterBits) & (tables.entriesPerTable - 1)
            while index < tables.entriesPerTable, budget > 0 {
                let position = runs.remaining.lower
                let clusters = (runs.range.upper - 1) >> tables.clusterBits - position >> tables.clusterBits + 1
                let left = min(tables.entriesPerTable - index, clusters)
                let place = table + index << tables.entryBits
                if left > UInt64(Self.batchWords), position & (tables.clusterSize - 1) == 0 {
                    let empty = try emptyEntries(from: place, wordsEach: wordsEach, limit: left, &budget)
                    if empty > 0 {
                        guard runs.append(.hole, length: empty << tables.clusterBits) else { return false }
                        index += empty
                        continue
                    }
                }
                let count = min(left, UInt64(Self.batchWords) / wordsEach)
                guard try mapBatch(at: place, count: count, wordsEach: wordsEach, into: &runs) else { return false }
                index += count
                budget -= min(budget, count)
            }
            return true
        }

        /// Maps the clusters of `count` entries at `place`, the first of which describes the start of what is missing.
        private func mapBatch(
            at place: UInt64, count: UInt64, wordsEach: UInt64, into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            try withWords(at: place, count: Int(count * wordsEach)) { words throws(ImageError) in
                for index in 0..<Int(count) {
                    let first = index * Int(wordsEach)
                    let entryPlace = place + UInt64(first) * 8
                    let second = wordsEach == 2 ? UInt64(bigEndian: words[first + 1]) : 0
                    guard try map(UInt64(bigEndian: words[first]), second, at: entryPlace, into: &runs) else {
                        return false
                    }
                }
                return true
            }
        }

        private func map(
            _ entry: UInt64, _ second: UInt64, at place: UInt64, into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            let position = runs.remaining.lower
            let within = position & (tables.clusterSize - 1)
            let cluster = try rules.cluster(entry, at: place, guest: position - within)
            let length = tables.clusterSize - within
            if case .compressed(let offset, let stored) = cluster {
                guard second == 0 else {
                    throw ImageError(.corrupt, "a compressed cluster has subclusters", at: place)
                }
                return try append(compressed: offset, stored, skip: within, length: length, at: place, into: &runs)
            }
            if rules.hasSubclusters { return try map(second, of: cluster, at: place, into: &runs) }
            switch cluster {
            case .unallocated: return runs.append(.hole, length: length)
            case .zero: return runs.append(.zero, length: length)
            case .data(let offset): return try append(data: offset + within, length: length, at: place, into: &runs)
            case .compressed: return false
            }
        }

        /// Maps the subclusters of one cluster from the start of what is missing.
        private func map(
            _ word: UInt64, of cluster: Cluster, at place: UInt64, into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            var host: UInt64?
            if case .data(let offset) = cluster { host = offset }
            let states = try SubclusterMap(word, hasHost: host != nil, at: place)
            let bits = tables.clusterBits - 5
            var within = runs.remaining.lower & (tables.clusterSize - 1)
            while within < tables.clusterSize {
                let index = Int(within >> bits)
                let run = states.run(at: index)
                let end = UInt64(index + run.count) << bits
                let more: Bool
                switch run.state {
                case .unallocated: more = runs.append(.hole, length: end - within)
                case .zero: more = runs.append(.zero, length: end - within)
                case .data:
                    more = try append(data: (host ?? 0) + within, length: end - within, at: place, into: &runs)
                }
                guard more else { return false }
                within = end
            }
            return true
        }

        // MARK: - Host ranges

        /// Adds `length` bytes at `offset` of the data file. What the file does not hold is never made up: an answer ends
        /// where the file ends, and the byte behind it is an error. Only bytes that the guest can see count, so a file
        /// may end inside the last cluster of the disk, or in subclusters that were never written.
        private func append(
            data offset: UInt64, length: UInt64, at place: UInt64, into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            let size = dataFile.size
            guard offset < size else {
                throw ImageError(.corrupt, "an L2 entry leads past the end of the file that holds the data", at: place)
            }
            let held = min(length, size - offset)
            let more = runs.append(.data(file: dataSlot, offset: HostOffset(offset)), length: held)
            return more && held == length
        }

        /// Adds a part of a compressed cluster. Its length is in sectors, so it may reach past the end of the file; the
        /// decoder then gets what there is.
        private func append(
            compressed offset: UInt64, _ stored: UInt64, skip: UInt64, length: UInt64, at place: UInt64,
            into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            let size = imageFile.size
            guard offset < size else {
                throw ImageError(.corrupt, "a compressed cluster lies past the end of the file", at: place)
            }
            let held = UInt32(truncatingIfNeeded: min(stored, size - offset))
            return runs.append(
                .encoded(
                    file: .image, offset: HostOffset(offset), length: held, skip: UInt32(truncatingIfNeeded: skip)),
                length: length)
        }
    }
}
