internal import Storage

extension QCOW2 {
    /// How often each cluster of an image file is referenced, counted anew by a check.
    ///
    /// Only stretches of the file that something refers to take memory: 12 KiB for 4096 clusters. Counts have 16 bits;
    /// the rare larger ones are kept apart. For one thread.
    final class ClusterCounts {
        /// What a check knows of a cluster besides its count.
        struct Marks: OptionSet {
            let rawValue: UInt8

            /// Something refers to it that shares with nothing: header, L1 and refcount structures, snapshot table,
            /// bitmaps.
            static let exclusive = Marks(rawValue: 1)
            /// It is an L2 table, which snapshots may share.
            static let l2Table = Marks(rawValue: 2)
            /// It holds guest data, plain or compressed.
            static let data = Marks(rawValue: 4)
            /// It is used as two kinds of thing.
            static let overlaps = Marks(rawValue: 8)
            /// Its stored refcount is 1.
            static let storedOne = Marks(rawValue: 16)
            /// Its refcount should be 1.
            static let wantedOne = Marks(rawValue: 32)

            /// The three kinds of use.
            static let uses: Marks = [.exclusive, .l2Table, .data]
        }

        /// The clusters of one stretch.
        static let segment: UInt64 = 4096
        private static let segmentBytes = Int(segment) * 3
        private static let largeBytes = 48

        private struct Chunk {
            let counts: UnsafeMutablePointer<UInt16>
            let marks: UnsafeMutablePointer<UInt8>
        }

        private var chunks: [UInt64: Chunk] = [:]
        private var large: [UInt64: UInt64] = [:]
        private var last: (index: UInt64, chunk: Chunk)?
        private var bytesLeft: Int

        /// No counts yet; at most `limitBytes` bytes will be used for them.
        init(limitBytes: Int) { bytesLeft = limitBytes }

        deinit {
            for chunk in chunks.values {
                chunk.counts.deallocate()
                chunk.marks.deallocate()
            }
        }

        /// The stretches in which something was counted, by number, ascending.
        var segments: [UInt64] { chunks.keys.sorted() }

        /// How often `cluster` is referenced.
        func count(of cluster: UInt64) -> UInt64 {
            guard let chunk = chunk(cluster / Self.segment) else { return 0 }
            let count = chunk.counts[Int(cluster % Self.segment)]
            return count == .max ? large[cluster] ?? UInt64(count) : UInt64(count)
        }

        /// What is known of `cluster`.
        func marks(of cluster: UInt64) -> Marks {
            Marks(rawValue: chunk(cluster / Self.segment)?.marks[Int(cluster % Self.segment)] ?? 0)
        }

        /// Notes `mark` of a cluster in which something was counted, or takes it back.
        func set(_ mark: Marks, _ isOn: Bool, of cluster: UInt64) {
            guard let chunk = chunk(cluster / Self.segment) else { return }
            let index = Int(cluster % Self.segment)
            if isOn { chunk.marks[index] |= mark.rawValue } else { chunk.marks[index] &= ~mark.rawValue }
        }

        /// Counts `weight` more references to `cluster`, as `use`. Throws `.unsupported` at the limit of memory.
        func add(_ cluster: UInt64, weight: UInt64 = 1, as use: Marks) throws(ImageError) {
            let chunk = try madeChunk(cluster / Self.segment)
            let index = Int(cluster % Self.segment)
            let before = chunk.marks[index]
            if before & Marks.uses.rawValue & ~use.rawValue != 0
                || (use == .exclusive && (weight > 1 || before & use.rawValue != 0))
            {
                chunk.marks[index] |= Marks.overlaps.rawValue
            }
            chunk.marks[index] |= use.rawValue
            let old = chunk.counts[index]
            if old != .max, weight < UInt64(UInt16.max) - UInt64(old) {
                chunk.counts[index] = old + UInt16(weight)
                return
            }
            let sum = count(of: cluster).addingReportingOverflow(weight)
            if old != .max { try spend(Self.largeBytes) }
            chunk.counts[index] = .max
            large[cluster] = sum.overflow ? .max : sum.partialValue
        }

        /// Takes one reference to `cluster` back.
        func remove(_ cluster: UInt64) {
            guard let chunk = chunk(cluster / Self.segment) else { return }
            let index = Int(cluster % Self.segment)
            switch chunk.counts[index] {
            case 0: return
            case .max: large[cluster, default: 1] -= large[cluster] == 0 ? 0 : 1
            default: chunk.counts[index] -= 1
            }
        }

        private func chunk(_ index: UInt64) -> Chunk? {
            if let last, last.index == index { return last.chunk }
            guard let chunk = chunks[index] else { return nil }
            last = (index, chunk)
            return chunk
        }

        private func madeChunk(_ index: UInt64) throws(ImageError) -> Chunk {
            if let chunk = chunk(index) { return chunk }
            try spend(Self.segmentBytes)
            let chunk = Chunk(
                counts: .allocate(capacity: Int(Self.segment)), marks: .allocate(capacity: Int(Self.segment)))
            chunk.counts.initialize(repeating: 0, count: Int(Self.segment))
            chunk.marks.initialize(repeating: 0, count: Int(Self.segment))
            chunks[index] = chunk
            last = (index, chunk)
            return chunk
        }

        private func spend(_ bytes: Int) throws(ImageError) {
            guard bytesLeft >= bytes else {
                throw ImageError(
                    .unsupported,
                    "the image refers to so many places that counting them takes more memory than a check may use")
            }
            bytesLeft -= bytes
        }
    }

    /// Stretches of a file that tables occupy, some of them several times, so that each byte is looked at once.
    struct TableSweep {
        private var events: [(position: UInt64, isStart: Bool)] = []

        /// Adds one table; `bytes` may be 0, and the end must not overflow.
        mutating func add(_ offset: UInt64, bytes: UInt64) {
            guard bytes > 0 else { return }
            events.append((offset, true))
            events.append((offset + bytes, false))
        }

        /// The stretches in ascending order, each with the number of tables that cover it.
        func stretches() -> [(offset: UInt64, bytes: UInt64, weight: UInt64)] {
            var result: [(offset: UInt64, bytes: UInt64, weight: UInt64)] = []
            var weight: UInt64 = 0
            var start: UInt64 = 0
            for event in events.sorted(by: { $0.position < $1.position }) {
                if weight > 0, event.position > start { result.append((start, event.position - start, weight)) }
                start = event.position
                if event.isStart { weight += 1 } else { weight -= 1 }
            }
            return result
        }
    }
}
