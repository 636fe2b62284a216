import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The bytes of a small qcow2 file, with its structures found in them, to be damaged one by one.
struct QCOW2Bytes {
    var bytes: [UInt8]

    /// Reads a file.
    init(_ path: String) throws { bytes = try HostFiles.read(path) }

    func word(at place: UInt64) -> UInt64 {
        (0..<8).reduce(0) { $0 << 8 | UInt64(bytes[Int(place) + $1]) }
    }

    func half(at place: UInt64) -> UInt64 { word(at: place) >> 32 }

    mutating func put(_ value: UInt64, at place: UInt64) { bytes.put(value, at: Int(place)) }

    var clusterBits: UInt64 { half(at: 20) }
    var cluster: UInt64 { 1 << clusterBits }
    var isNew: Bool { half(at: 4) == 3 }
    var order: UInt64 { isNew ? half(at: 96) : 4 }
    var hasSubclusters: Bool { isNew && word(at: 72) & 16 != 0 }
    var l1: UInt64 { word(at: 40) }
    var table: UInt64 { word(at: 48) }
    var block: UInt64 { word(at: table) }
    var entryBytes: UInt64 { hasSubclusters ? 16 : 8 }

    /// The places of the L1 entries that name a table.
    var l1Entries: [UInt64] { (0..<half(at: 36)).map { l1 + $0 * 8 }.filter { word(at: $0) != 0 } }

    /// The places of all L2 entries of the active disk that name a host cluster, with or without the COPIED flag.
    func entries(copied: Bool) -> [UInt64] {
        l1Entries.flatMap { entry -> [UInt64] in
            let table = word(at: entry) & 0x00FF_FFFF_FFFF_FE00
            return stride(from: table, to: table + cluster, by: UInt64.Stride(entryBytes)).filter {
                let word = word(at: $0)
                return word & 0x00FF_FFFF_FFFF_FE00 != 0 && word >> 62 & 1 == 0 && word >> 63 == (copied ? 1 : 0)
            }
        }
    }

    /// The host cluster that an entry names.
    func host(_ entry: UInt64) -> UInt64 { (word(at: entry) & 0x00FF_FFFF_FFFF_FE00) >> clusterBits }

    /// The refcount of a cluster, from its block.
    subscript(refcount cluster: UInt64) -> UInt64 {
        get {
            let (place, shift, mask) = refcountPlace(cluster)
            return word(at: place) >> shift & mask
        }
        set {
            let (place, shift, mask) = refcountPlace(cluster)
            put(word(at: place) & ~(mask << shift) | (newValue & mask) << shift, at: place)
        }
    }

    /// The aligned word that a refcount lies in, and where in it.
    private func refcountPlace(_ cluster: UInt64) -> (place: UInt64, shift: UInt64, mask: UInt64) {
        let width = UInt64(1) << order
        let perBlock = (self.cluster << 3) >> order
        let block = word(at: table + cluster / perBlock * 8)
        let bit = (cluster % perBlock) << order
        // Below a byte the lowest bits come first; from a byte on the number is big-endian.
        let inByte = bit % 8
        let byte = bit / 8 % 8
        let shift = width < 8 ? 56 - byte * 8 + inByte : 64 - byte * 8 - width
        return (block + bit / 64 * 8, shift, width == 64 ? .max : 1 << width - 1)
    }
}

/// Asks QEMU's check and platter's, to compare them.
enum CheckOracle {
    struct Numbers: Equatable, CustomStringConvertible {
        var corruptions: UInt64
        var leaks: UInt64
        var imageEnd: UInt64
        var allocated: UInt64
        var description: String { "\(corruptions) corruptions, \(leaks) leaks, end \(imageEnd), \(allocated) bytes" }
    }

    /// What `qemu-img check` says; nil where it cannot check the image.
    static func qemu(_ path: String) throws -> Numbers? {
        let result = try ChildProcess("qemu-img", ["check", "--output=json", "-f", "qcow2", path]).wait(timeout: 120)
        guard let json = try? JSON(parsing: result.text), json["check-errors"]?.uint64 == 0 else { return nil }
        let cluster = UInt64(1) << (try QCOW2Bytes(path).clusterBits)
        return Numbers(
            corruptions: json["corruptions"]?.uint64 ?? 0, leaks: json["leaks"]?.uint64 ?? 0,
            imageEnd: json["image-end-offset"]?.uint64 ?? 0,
            allocated: (json["allocated-clusters"]?.uint64 ?? 0) * cluster)
    }

    /// What platter says.
    static func platter(_ path: String, repairs: Bool = false) throws -> CheckReport {
        let storage = try FileStorage(path: path, isWritable: repairs)
        defer { storage.close() }
        return try QCOW2.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: repairs)
    }

    /// The hash of what a reader sees on the disk.
    static func hash(_ path: String) throws -> String { try TestChain.open(path).hash() }
}

extension CheckReport {
    var numbers: CheckOracle.Numbers {
        CheckOracle.Numbers(corruptions: corruptions, leaks: leaks, imageEnd: imageEnd, allocated: allocatedBytes)
    }
}
