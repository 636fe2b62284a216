import Bytes
import Formats
import Storage
import TestSupport

/// Makes qcow2 images byte by byte, so that a test can say every single field, wrong ones too.
///
/// The file holds the header in cluster 0, a refcount table without refcounts in cluster 1, the L1 table from cluster 2
/// on, then what is added, and the L2 tables at the end.
struct QCOW2Builder {
    var version: UInt32 = 3
    var refcountOrder: UInt32 = 4
    var incompatible: UInt64 = 0
    var compatible: UInt64 = 0
    var autoclear: UInt64 = 0
    var compression: UInt8 = 0
    var encryption: UInt32 = 0
    var extensions: [(kind: UInt32, data: [UInt8])] = []
    var backingName: [UInt8]?
    var snapshotCount: UInt32 = 0
    var snapshotsOffset: UInt64 = 0
    /// L1 entries to write as they are, whatever the clusters say.
    var l1Entries: [Int: UInt64] = [:]
    /// L2 entries by guest cluster; the second word counts with subclusters only.
    var clusters: [UInt64: (word: UInt64, second: UInt64)] = [:]

    let clusterBits: UInt32
    let size: UInt64
    private(set) var file: [UInt8]

    init(clusterBits: UInt32 = 12, size: UInt64 = 1 << 20) {
        self.clusterBits = clusterBits
        self.size = size
        file = [UInt8](repeating: 0, count: 3 << Int(clusterBits))
    }

    var cluster: Int { 1 << Int(clusterBits) }
    var hasSubclusters: Bool { incompatible & 16 != 0 }
    private var entriesPerTable: UInt64 { UInt64(cluster) / (hasSubclusters ? 16 : 8) }
    private var l1Size: Int { Int(size.dividedRoundingUp(by: entriesPerTable * UInt64(cluster))) }

    /// Adds bytes at the next cluster of the file and returns where they are; `padded` fills the last cluster.
    mutating func add(_ bytes: [UInt8], padded: Bool = true) -> UInt64 {
        pad()
        let offset = UInt64(file.count)
        file += bytes
        if padded { pad() }
        return offset
    }

    /// Adds bytes right behind what is there, as compressed clusters lie.
    mutating func pack(_ bytes: [UInt8]) -> UInt64 {
        let offset = UInt64(file.count)
        file += bytes
        return offset
    }

    /// The L2 entry of a compressed cluster.
    func compressed(at offset: UInt64, count: Int) -> UInt64 {
        let sectors = (offset + UInt64(count) - 1) / 512 - offset / 512
        return 1 << 62 | sectors << UInt64(62 - (clusterBits - 8)) | offset
    }

    /// An L1 table for the clusters given, with its L2 tables; returns where it is. What snapshots need.
    mutating func addTables(_ clusters: [UInt64: (word: UInt64, second: UInt64)], l1Size: Int) -> UInt64 {
        let l1 = Int(add([UInt8](repeating: 0, count: l1Size * 8)))
        writeTables(clusters, l1: l1)
        return UInt64(l1)
    }

    private mutating func writeTables(_ clusters: [UInt64: (word: UInt64, second: UInt64)], l1: Int) {
        for table in Set(clusters.keys.map { $0 / entriesPerTable }).sorted() {
            var bytes = [UInt8](repeating: 0, count: cluster)
            for (index, entry) in clusters where index / entriesPerTable == table {
                let place = Int(index % entriesPerTable) * (hasSubclusters ? 16 : 8)
                bytes.put(entry.word, at: place)
                if hasSubclusters { bytes.put(entry.second, at: place + 8) }
            }
            let offset = add(bytes)
            file.put(offset | 1 << 63, at: l1 + Int(table) * 8)
        }
    }

    /// The finished image.
    func build() -> [UInt8] {
        var copy = self
        copy.finish()
        return copy.file
    }

    private mutating func finish() {
        pad()
        // Small clusters need more than one for the L1 table, which then lies behind everything else.
        let l1 = l1Size * 8 <= cluster ? 2 * cluster : Int(add([UInt8](repeating: 0, count: l1Size * 8)))
        writeTables(clusters, l1: l1)
        for (index, entry) in l1Entries { file.put(entry, at: l1 + index * 8) }
        file.put(UInt32(0x5146_49FB), at: 0)
        file.put(version, at: 4)
        file.put(clusterBits, at: 20)
        file.put(size, at: 24)
        file.put(encryption, at: 32)
        file.put(UInt32(l1Size), at: 36)
        file.put(UInt64(l1), at: 40)
        file.put(UInt64(cluster), at: 48)
        file.put(UInt32(1), at: 56)
        file.put(snapshotCount, at: 60)
        file.put(snapshotsOffset, at: 64)
        if version >= 3 { finishNewHeader() }
        finishExtensions()
    }

    private mutating func finishNewHeader() {
        file.put(incompatible, at: 72)
        file.put(compatible, at: 80)
        file.put(autoclear, at: 88)
        file.put(refcountOrder, at: 96)
        file.put(UInt32(112), at: 100)
        file[104] = compression
    }

    private mutating func finishExtensions() {
        var position = version >= 3 ? 112 : 72
        for (kind, data) in extensions {
            file.put(kind, at: position)
            file.put(UInt32(data.count), at: position + 4)
            file.replaceSubrange((position + 8)..<(position + 8 + data.count), with: data)
            position += 8 + (data.count + 7) & ~7
        }
        guard let backingName else { return }
        position += 8
        file.replaceSubrange(position..<(position + backingName.count), with: backingName)
        file.put(UInt64(position), at: 8)
        file.put(UInt32(backingName.count), at: 16)
    }

    private mutating func pad() {
        let rest = file.count % cluster
        if rest > 0 { file += [UInt8](repeating: 0, count: cluster - rest) }
    }
}

extension QCOW2Builder {
    /// Opens the finished image.
    func open(_ companions: any CompanionOpener = NoCompanions()) throws -> DriverReader {
        try Self.open(build(), companions)
    }

    /// Opens an image of these bytes.
    static func open(_ bytes: [UInt8], _ companions: any CompanionOpener = NoCompanions()) throws -> DriverReader {
        // A small cache: making a large one takes most of the time of a small test.
        let options = FormatOptions(cacheBytes: 256 << 10)
        let request = OpenRequest(storage: MemoryStorage(bytes), companions: companions, options: options)
        return DriverReader(try QCOW2.open(request))
    }

    /// The failure of opening the finished image, or nil.
    func openFailure() -> ImageError? { imageError { _ = try open() } }
}

extension Array where Element == UInt8 {
    /// Stores a big-endian integer at `offset`.
    mutating func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
        for index in 0..<(Value.bitWidth / 8) {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> Value((Value.bitWidth / 8 - 1 - index) * 8))
        }
    }
}

extension DriverReader {
    /// `count` bytes at `offset`.
    func bytes(_ offset: UInt64, _ count: UInt64) throws -> [UInt8] { try read(ByteRange(offset, to: offset + count)) }

    /// The runs of `range`, asked for as often as it takes.
    func runs(_ range: ByteRange, _ detail: MapDetail = .allocation) throws -> [Extent] {
        var result: [Extent] = []
        var rest = range
        while !rest.isEmpty {
            var list = ExtentList(for: rest)
            try driver.map(detail, into: &list)
            guard list.count > 0 else { throw ContractViolation("map covered nothing of \(rest)") }
            for index in 0..<list.count { result.append(list[index]) }
            rest = list.remaining
        }
        return result
    }

    /// What the first run from `offset` on is, in one word.
    func kind(at offset: UInt64) throws -> String {
        switch try runs(ByteRange(offset, to: offset + 1))[0].place {
        case .data: "data"
        case .encoded: "encoded"
        case .zero: "zero"
        case .hole: "hole"
        }
    }
}

/// The `ImageError` that `body` throws, or nil where it throws nothing else.
func imageError(_ body: () throws -> Void) -> ImageError? {
    do {
        try body()
        return nil
    } catch {
        return error as? ImageError
    }
}
