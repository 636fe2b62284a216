import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Repairs of VHDX images that lose power: every state in between reads as before and can be repaired again.
struct VHDXRepairCrashTests {
    /// What is wrong with an image: the places of bytes that are wrong, and whether it was left by a session that was killed,
    /// so that its log is in use and its file longer than its blocks need.
    struct Damage: CustomTestStringConvertible, Sendable {
        var what: String
        var places: [Int] = []
        var isKilled = false
        var testDescription: String { what }
    }

    private static let all = [
        Damage(what: "first header", places: [65_636]), Damage(what: "second header", places: [131_172]),
        Damage(what: "first region table", places: [200_000]), Damage(what: "second region table", places: [270_000]),
        Damage(what: "a header and a region table", places: [65_636, 270_000]),
        Damage(what: "a log in use", isKilled: true),
        Damage(what: "a log in use and a region table", places: [200_000], isKilled: true),
        Damage(what: "a log in use and another region table", places: [270_000], isKilled: true),
    ]

    @Test(arguments: all)
    func everyStateReadsAsBeforeAndCanBeRepaired(damage: Damage) throws {
        var bytes = try VHDRepairCrashTests.image(
            VHDX.self, size: 6 << 20, options: ["block_size": "1M", "log_size": "1M"], isKilled: damage.isKilled)
        for place in damage.places { bytes[place] ^= 1 }
        let report = try VHDXCheckTests.check(MemoryStorage(bytes))
        #expect(report.corruptions == UInt64(damage.places.count), "\(report.findings)")
        #expect(!damage.isKilled || !report.findings.isEmpty)
        #expect(try RepairPowerCut.sweep(VHDX.self, bytes) > 4)
    }

    /// The header that names the log is the newer one; without it the older one counts, which may know of no log. Whatever
    /// is read then stays so.
    @Test(arguments: [65_636, 131_172])
    func aLogWhoseHeaderIsDamaged(place: Int) throws {
        var bytes = try VHDRepairCrashTests.image(
            VHDX.self, size: 6 << 20, options: ["block_size": "1M", "log_size": "1M"], isKilled: true)
        bytes[place] ^= 1
        #expect(try RepairPowerCut.sweep(VHDX.self, bytes) > 4)
    }
}
