import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// `QCOW2.check` against `qemu-img check`: the same numbers, on whole images and on each single damage; and its repairs.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2CheckTests {
    static let size: UInt64 = 2 << 20 | 3 << 9

    /// Images with data, zeros, holes and, where it can be, a snapshot that shares some of it.
    enum Kind: String, CaseIterable, Sendable {
        case plain, small, wide, narrow, old, subclusters, compressed

        var options: [String] {
            switch self {
            case .plain: []
            case .small: ["cluster_size=512"]
            case .wide: ["cluster_size=4096", "refcount_bits=64"]
            case .narrow: ["cluster_size=4096", "refcount_bits=1"]
            case .old: ["cluster_size=4096", "compat=0.10"]
            case .subclusters: ["cluster_size=16384", "extended_l2=on"]
            case .compressed: ["cluster_size=4096", "refcount_bits=8"]
            }
        }

        func make(in directory: TemporaryDirectory) throws -> String {
            let path = directory.file("image.qcow2")
            let size = QCOW2CheckTests.size
            if self == .compressed {
                let raw = directory.file("source.raw")
                try Oracle.raw(raw, size: size)
                let options = options.flatMap { ["-o", $0] }
                try Oracle.run(
                    "qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2"] + options + [raw, path])
            } else {
                try Oracle.create(path, "qcow2", options, size: size)
            }
            try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 77 0 300k", path])
            if self != .narrow { try Oracle.run("qemu-img", ["snapshot", "-c", "one", path]) }
            try Oracle.scribble(path, "qcow2", size: size, unit: 4096, seed: 5)
            try Oracle.run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 78 128k 128k", path])
            return path
        }
    }

    @Test(arguments: Kind.allCases)
    func cleanImagesAreCleanForBoth(kind: Kind) throws {
        let directory = try TemporaryDirectory("check")
        let path = try kind.make(in: directory)
        let report = try CheckOracle.platter(path)
        #expect(report.corruptions == 0 && report.leaks == 0, "\(report.findings)")
        #expect(try report.numbers == CheckOracle.qemu(path))
        // A repair with nothing to repair changes nothing.
        let before = try HostFiles.read(path)
        _ = try CheckOracle.platter(path, repairs: true)
        #expect(try HostFiles.read(path) == before)
    }

    @Test(
        .enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"),
        arguments: SharedImages.images(.equal, .safe, .error).filter {
            // QEMU follows the names in some of the hostile ones.
            $0.format == "qcow2" && !$0.name.hasPrefix("h-") && !$0.name.hasPrefix("cdi-")
                && $0.name != SharedImageTests.encrypted
        })
    func sharedImagesHaveQEMUsVerdict(image: SharedImage) throws {
        let path = try image.path()
        let ours = try CheckOracle.platter(path)
        guard var theirs = try CheckOracle.qemu(path) else { return }
        if try QCOW2Bytes(path).isNew, try QCOW2Bytes(path).word(at: 72) & 1 == 1 {
            // Refcounts that are wrong as the dirty bit announces are no corruption of the image; they are noted.
            let notes = ours.findings.filter { $0.severity == .note }.reduce(0) { $0 + $1.count }
            #expect(notes == theirs.corruptions + 1)
            theirs.corruptions = 0
        }
        #expect(ours.numbers == theirs, "\(ours.findings.prefix(5))")
    }

    @Test(arguments: Damage.allCases, Kind.allCases)
    func aSingleDamageIsFoundAndRepaired(damage: Damage, kind: Kind) throws {
        let directory = try TemporaryDirectory("check")
        let path = try kind.make(in: directory)
        var image = try QCOW2Bytes(path)
        guard damage.apply(&image) else { return }
        let whole = try CheckOracle.hash(path)
        try HostFiles.write(image.bytes, to: path)
        let content = damage == .sameClusterTwice ? try CheckOracle.hash(path) : whole

        let found = try CheckOracle.platter(path)
        #expect(found.corruptions > 0 || found.leaks > 0 || damage == .corruptBit || damage == .dirtyBit)
        #expect((found.corruptions == 0) == damage.isHarmless, "\(found.findings)")
        if damage.isCountedAsQEMUDoes, let theirs = try CheckOracle.qemu(path) {
            #expect(found.numbers == theirs, "\(found.findings)")
        }
        let repaired = try CheckOracle.platter(path, repairs: true)
        #expect(repaired.corruptions + repaired.corruptionsRepaired == found.corruptions)
        #expect((repaired.corruptions == 0) == damage.isRepairable, "\(repaired.findings)")
        let again = try CheckOracle.platter(path)
        #expect(again.corruptions == repaired.corruptions && again.leaks == repaired.leaks, "\(again.findings)")
        guard damage.isRepairable else { return }
        #expect(repaired.leaks == 0)
        #expect(again.findings.isEmpty, "\(again.findings)")
        #expect(try again.numbers == CheckOracle.qemu(path))
        #expect(try CheckOracle.hash(path) == content)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "qcow2", path])
        // What was repaired can be written to without harm. (Two entries for one cluster are what QEMU itself cannot keep:
        // when one lets go, the other lacks its flag.)
        guard kind == .plain || kind == .narrow, damage != .sameClusterTwice else { return }
        try Oracle.scribble(path, "qcow2", size: Self.size, unit: 4096, seed: 9)
        try Oracle.run("qemu-img", ["check", "-q", "-f", "qcow2", path])
        #expect(try CheckOracle.platter(path).findings.isEmpty)
    }
}

/// One thing that can be wrong in an image.
enum Damage: String, CaseIterable, Sendable {
    case dataRefcountZero, tableRefcountZero, headerRefcountZero, dataRefcountHigh, sharedRefcountLow
    case leakedCluster, entryFlagMissing, tableFlagMissing, flagOnShared
    case blockZeroed, blockLost, blockMisaligned, blockOutside, blockReservedBits, blockIsData, blockIsTable
    case tableOutside, dirtyBit, corruptBit
    case l1Reserved, l2Reserved, dataUnaligned, dataOutside, tableEntryOutside, subclusterBoth, compressedOutside
    case sameClusterTwice

    /// Whether nothing that it does can lose data.
    var isHarmless: Bool {
        switch self {
        case .leakedCluster, .dirtyBit, .corruptBit: true
        default: false
        }
    }

    /// Whether everything about it can be put right.
    var isRepairable: Bool {
        switch self {
        case .l1Reserved, .l2Reserved, .dataUnaligned, .dataOutside, .tableEntryOutside, .subclusterBoth,
            .compressedOutside:
            false
        default: true
        }
    }

    /// Whether QEMU counts the same; where it does not, it repeats itself or stops early.
    var isCountedAsQEMUDoes: Bool {
        switch self {
        case .tableOutside, .tableEntryOutside, .subclusterBoth, .blockLost, .blockMisaligned, .blockOutside,
            .blockReservedBits, .blockIsData, .blockIsTable, .dataUnaligned:
            false
        default: true
        }
    }

    /// Does it; false where the image has nothing that it can be done to.
    func apply(_ image: inout QCOW2Bytes) -> Bool {
        guard let entry = image.entries(copied: true).first, let table = image.l1Entries.first else { return false }
        let shared = image.entries(copied: false).first
        let widest: UInt64 = image.order == 6 ? .max : 1 << (1 << image.order) - 1
        let end = UInt64(image.bytes.count)
        switch self {
        case .dataRefcountZero: image[refcount: image.host(entry)] = 0
        case .tableRefcountZero: image[refcount: image.host(table)] = 0
        case .headerRefcountZero: image[refcount: 0] = 0
        case .dataRefcountHigh:
            guard widest > 1 else { return false }
            image[refcount: image.host(entry)] = widest
        case .sharedRefcountLow:
            guard let shared, image[refcount: image.host(shared)] == 2 else { return false }
            image[refcount: image.host(shared)] = 1
        case .leakedCluster:
            let count = end / image.cluster
            guard let free = (1..<count).last(where: { image[refcount: $0] == 0 }) else {
                image.bytes += [UInt8](repeating: 0, count: Int(image.cluster))
                image[refcount: count] = 1
                return true
            }
            image[refcount: free] = 1
        case .entryFlagMissing: image.put(image.word(at: entry) & ~(1 << 63), at: entry)
        case .tableFlagMissing:
            guard image.word(at: table) >> 63 == 1 else { return false }
            image.put(image.word(at: table) & ~(1 << 63), at: table)
        case .flagOnShared:
            guard let shared else { return false }
            image.put(image.word(at: shared) | 1 << 63, at: shared)
        default: return applyMore(&image, entry: entry, table: table, end: end)
        }
        return true
    }

    private func applyMore(_ image: inout QCOW2Bytes, entry: UInt64, table: UInt64, end: UInt64) -> Bool {
        switch self {
        case .blockZeroed:
            image.bytes.replaceSubrange(
                Int(image.block)..<Int(image.block + image.cluster), with: repeatElement(0, count: Int(image.cluster)))
        case .blockLost: image.put(0, at: image.table)
        case .blockMisaligned: image.put(image.block + 512, at: image.table)
        case .blockOutside: image.put(1 << 40, at: image.table)
        case .blockReservedBits: image.put(image.block + 1, at: image.table)
        case .blockIsData: image.put(image.host(entry) << image.clusterBits, at: image.table)
        case .blockIsTable: image.put(image.host(table) << image.clusterBits, at: image.table)
        case .tableOutside: image.put(1 << 40, at: 48)
        case .dirtyBit, .corruptBit:
            guard image.isNew else { return false }
            image.put(image.word(at: 72) | (self == .dirtyBit ? 1 : 2), at: 72)
        case .l1Reserved: image.put(image.word(at: table) | 1 << 60, at: table)
        case .l2Reserved: image.put(image.word(at: entry) | 1 << 57, at: entry)
        case .dataUnaligned:
            guard image.cluster > 512 else { return false }
            image.put(image.word(at: entry) + 512, at: entry)
        case .dataOutside: image.put(1 << 63 | 1 << 40, at: entry)
        case .tableEntryOutside: image.put(1 << 63 | 1 << 40, at: table)
        case .subclusterBoth:
            guard image.hasSubclusters else { return false }
            image.put(image.word(at: entry + 8) | 1 << 32 | 1, at: entry + 8)
        case .compressedOutside: image.put(1 << 62 | 1 << 40, at: entry)
        case .sameClusterTwice:
            // As it is after a refcount was lost: two entries lead to one cluster.
            guard let other = image.entries(copied: true).last, other != entry, image.order > 0 else { return false }
            image.put(image.word(at: entry), at: other)
        default: return false
        }
        return true
    }
}
