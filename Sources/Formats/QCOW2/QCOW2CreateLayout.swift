internal import Bytes
internal import Storage

extension QCOW2 {
    /// Where everything lies in a new image, and the tables that say so. In order: header, refcount table, refcount
    /// blocks, L1 table, L2 tables, guest clusters; without a gap, so every refcount up to the end is 1.
    struct NewLayout: Sendable {
        private let settings: CreateSettings
        /// The length of the L1 table in entries.
        let l1Size: UInt64
        /// The length of the refcount table in clusters.
        let tableClusters: UInt64
        private let blockCount: UInt64
        private let l1Clusters: UInt64
        private let l2Count: UInt64
        private let guestClusters: UInt64
        /// All clusters of the file.
        private let total: UInt64

        /// The longest part of a table that is written at once, in words of 8 bytes.
        private static let pieceWords: UInt64 = 1 << 15

        private var clusterSize: UInt64 { settings.clusterSize }

        /// The place of the refcount table.
        var tableOffset: UInt64 { clusterSize }
        private var blocksOffset: UInt64 { tableOffset + tableClusters * clusterSize }
        /// The place of the L1 table; 0 where there is none.
        var l1Offset: UInt64 { l1Size == 0 ? 0 : l1Place }
        private var l1Place: UInt64 { blocksOffset + blockCount * clusterSize }
        private var l2Offset: UInt64 { l1Place + l1Clusters * clusterSize }
        /// The place of the first guest cluster, if the image holds any.
        var dataOffset: UInt64 { l2Offset + l2Count * clusterSize }
        /// The size of the file in bytes.
        var fileSize: UInt64 { total * clusterSize }

        /// Lays out an image. Throws `.outOfRange` for one that is larger than the format's tables can say.
        init(_ settings: CreateSettings) throws(ImageError) {
            self.settings = settings
            let cluster = settings.clusterSize
            let perTable = cluster / (settings.hasSubclusters ? 16 : 8)
            guestClusters = settings.virtualSize.dividedRoundingUp(by: cluster)
            l1Size = guestClusters.dividedRoundingUp(by: perTable)
            guard l1Size * 8 <= 32 << 20 else { throw Self.tooLarge(settings) }
            l1Clusters = (l1Size * 8).dividedRoundingUp(by: cluster)
            l2Count = settings.preallocation == .off ? 0 : l1Size
            let hasGuest = settings.preallocation != .off && settings.dataFile == nil
            let others = 1 + l1Clusters + l2Count + (hasGuest ? guestClusters : 0)
            // The refcount blocks count themselves and their table: grow both until they hold all.
            let perBlock = (cluster << 3) >> UInt64(settings.refcountOrder)
            var (blocks, table): (UInt64, UInt64) = (1, 1)
            while true {
                let needed = (others + blocks + table).dividedRoundingUp(by: perBlock)
                let neededTable = (needed * 8).dividedRoundingUp(by: cluster)
                if needed <= blocks, neededTable <= table { break }
                (blocks, table) = (max(blocks, needed), max(table, neededTable))
                guard table * cluster <= 8 << 20 else { throw Self.tooLarge(settings) }
            }
            (blockCount, tableClusters, total) = (blocks, table, others + blocks + table)
        }

        private static func tooLarge(_ settings: CreateSettings) -> ImageError {
            ImageError(
                .outOfRange, "the disk is too large for this cluster size; choose a larger cluster_size",
                detail: "\(settings.virtualSize.counted("byte")) in clusters of \(settings.clusterSize)")
        }

        /// Writes all tables but the header into a file that has its full size and is zero. Throws `.noSpace` and `.io`.
        func writeTables(to storage: any Storage) throws(ImageError) {
            let copied: UInt64 = 1 << 63
            try write(storage, at: tableOffset, words: blockCount) { blocksOffset + $0 * clusterSize }
            try writeRefcounts(to: storage)
            try write(storage, at: l1Place, words: l2Count) { l2Offset + $0 * clusterSize | copied }
            let guest = settings.dataFile == nil ? dataOffset : 0
            guard l2Count > 0 else { return }
            guard settings.hasSubclusters else {
                try write(storage, at: l2Offset, words: guestClusters) { guest + $0 * clusterSize | copied }
                return
            }
            // A cluster that is there but allocates no subcluster still shows the parent.
            let subclusters: UInt64 = settings.backing == nil ? 0xFFFF_FFFF : 0
            try write(storage, at: l2Offset, words: guestClusters * 2) {
                $0 & 1 == 0 ? guest + $0 / 2 * clusterSize | copied : subclusters
            }
        }

        private func writeRefcounts(to storage: any Storage) throws(ImageError) {
            let perWord = UInt64(64) >> UInt64(settings.refcountOrder)
            let full = Self.refcountWord(counts: perWord, order: settings.refcountOrder)
            let last = Self.refcountWord(counts: total % perWord, order: settings.refcountOrder)
            try write(storage, at: blocksOffset, words: total.dividedRoundingUp(by: perWord)) {
                ($0 + 1) * perWord <= total ? full : last
            }
        }

        /// Eight bytes of a refcount block whose first `counts` refcounts are 1, as a big-endian number. Counts of less than
        /// a byte begin at a byte's lowest bit.
        static func refcountWord(counts: UInt64, order: UInt32) -> UInt64 {
            let bits = UInt64(1) << UInt64(order)
            var word: UInt64 = 0
            for index in 0..<counts {
                let shift = bits >= 8 ? 64 - (index + 1) * bits : 56 - index * bits / 8 * 8 + index * bits % 8
                word |= 1 << shift
            }
            return word
        }

        /// Writes `words` big-endian numbers of 8 bytes from `offset` on.
        private func write(
            _ storage: any Storage, at offset: UInt64, words: UInt64, _ word: (UInt64) -> UInt64
        ) throws(ImageError) {
            var done: UInt64 = 0
            while done < words {
                let count = min(words - done, Self.pieceWords)
                let bytes = [UInt8](unsafeUninitializedCapacity: Int(count) * 8) { buffer, initialized in
                    let raw = UnsafeMutableRawBufferPointer(buffer)
                    for index in 0..<Int(count) {
                        raw.storeBytes(
                            of: word(done + UInt64(index)).bigEndian, toByteOffset: index * 8, as: UInt64.self)
                    }
                    initialized = Int(count) * 8
                }
                try storage.write(at: HostOffset(offset + done * 8), bytes)
                done += count
            }
        }
    }
}
