internal import Bytes
internal import Storage

extension QCOW1 {
    /// The driver of a qcow version 1 image.
    final class Driver: FormatDriver {
        let shape: DiskShape
        let files: [any Storage]
        let parent: ParentReference?
        let decoder: (any BlockDecoder)?

        private let header: Header
        private let cache: MetadataCache

        /// How many table entries one `map` looks at before it stops early.
        private static let walkLimit = 1 << 14

        /// The disk that `header` describes.
        init(_ header: Header, cache: MetadataCache, parent: ParentReference?) {
            self.header = header
            self.cache = cache
            self.parent = parent
            files = [cache.storage]
            decoder = DeflateDecoder(unitBytes: Int(header.clusterSize))
            var facts = [
                Fact("version", "version", .number(1)),
                Fact("clusterSize", "cluster size", .bytes(header.clusterSize)),
            ]
            if let name = parent?.recorded.first {
                facts.append(Fact("backingFile", "backing file", .text(name)))
            }
            shape = DiskShape(
                virtualSize: header.virtualSize, allocationUnit: header.clusterSize, formatName: QCOW1.name,
                subformat: "v1", facts: facts)
        }

        func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError) {
            guard !runs.isComplete else { return }
            do throws(ImageError) {
                for _ in 0..<Self.walkLimit {
                    guard try mapStep(into: &runs) else { return }
                }
            } catch {
                // Damage further on ends the answer early; who asks again from there gets the error.
                guard runs.covered > 0 else { throw error }
            }
        }

        /// Maps the rest of what an empty L1 entry describes, or the rest of one cluster. False when nothing more can be
        /// added.
        private func mapStep(into runs: inout ExtentList) throws(ImageError) -> Bool {
            let position = runs.remaining.lower
            let index = position >> header.spanBits
            let place = header.l1Offset + index * 8
            let table = try header.l2Table(word(at: place), at: place, fileSize: cache.storage.size)
            guard table != 0 else {
                let left = header.virtualSize.dividedRoundingUp(by: 1 << header.spanBits) - index
                let empty = max(8, try hole(at: place, limit: left * 8)) / 8
                return runs.append(.hole, length: (index + empty) << header.spanBits - position)
            }
            let entry = table + (position >> header.clusterBits & (1 << header.tableBits - 1)) * 8
            return try append(header.cluster(word(at: entry), at: entry), at: entry, into: &runs)
        }

        private func append(
            _ cluster: Cluster, at place: UInt64, into runs: inout ExtentList
        ) throws(ImageError) -> Bool {
            let within = runs.remaining.lower & (header.clusterSize - 1)
            let length = header.clusterSize - within
            let size = cache.storage.size
            switch cluster {
            case .unallocated:
                return runs.append(.hole, length: length)
            case .data(let offset):
                // Only bytes that the guest can see must be in the file; behind its end nothing is made up.
                guard let start = offset.checkedAdding(within), start < size else {
                    throw ImageError(.corrupt, "an L2 entry leads past the end of the file", at: place)
                }
                let held = min(length, size - start)
                return runs.append(.data(file: .image, offset: HostOffset(start)), length: held) && held == length
            case .compressed(let offset, let stored):
                guard offset < size else {
                    throw ImageError(.corrupt, "a compressed cluster lies past the end of the file", at: place)
                }
                let held = UInt32(truncatingIfNeeded: min(stored, size - offset))
                return runs.append(
                    .encoded(
                        file: .image, offset: HostOffset(offset), length: held, skip: UInt32(truncatingIfNeeded: within)
                    ),
                    length: length)
            }
        }

        /// How much of the L1 table from `place` on the host knows to be a hole. It is asked at the start of a page only,
        /// and not for the last few entries, so that short reads stay without a system call.
        private func hole(at place: UInt64, limit: UInt64) throws(ImageError) -> UInt64 {
            guard place & 4095 == 0, limit >= 4096 else { return 0 }
            return try cache.holeLength(at: HostOffset(place), limit: limit)
        }

        private func word(at place: UInt64) throws(ImageError) -> UInt64 {
            var raw: UInt64 = 0
            var failure: ImageError?
            withUnsafeMutableBytes(of: &raw) { buffer in
                do throws(ImageError) { try cache.read(at: HostOffset(place), into: buffer) } catch { failure = error }
            }
            if let failure { throw failure }
            return UInt64(bigEndian: raw)
        }
    }
}
