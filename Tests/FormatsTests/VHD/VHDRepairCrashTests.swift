import Bytes
import Disk
import Formats
import Storage
import TestSupport
import Testing

/// Repairs of VHD images that lose power: every state in between reads as before and can be repaired again.
struct VHDRepairCrashTests {
    /// What is wrong with an image.
    enum Damage: CaseIterable {
        case noFooter, damagedFooter, damagedCopy, unusedEnd, unusedEndAndNoFooter, unusedEndAndDamagedFooter,
            unusedEndAndDamagedCopy

        /// Whether the image was left by a session that was killed: its file is longer than its blocks need.
        var isKilled: Bool {
            switch self {
            case .noFooter, .damagedFooter, .damagedCopy: false
            default: true
            }
        }

        func apply(to bytes: inout [UInt8]) {
            switch self {
            case .noFooter, .unusedEndAndNoFooter: bytes.removeLast(512)
            case .damagedFooter, .unusedEndAndDamagedFooter: bytes[bytes.count - 100] ^= 1
            case .damagedCopy, .unusedEndAndDamagedCopy: bytes[60] ^= 1
            case .unusedEnd: break
            }
        }
    }

    /// An image in use; a killed one as a loss of power leaves it.
    static func image(
        _ format: any ImageFormat.Type, size: UInt64, options: [String: String], isKilled: Bool
    ) throws -> [UInt8] {
        let fixture = try DiskFixture.created(format, size: size, options: options).written(seed: 3)
        let machine = PowerCutMachine(fixture.files.map(\.content))
        let disk = try fixture.open(machine.storages, true)
        var workload = DiskWorkload(ModelDisk(try disk.contents()), seed: 4)
        workload.unit = Int(disk.layers[0].shape.allocationUnit)
        try workload.run(12, on: disk, machine, largest: 64 << 10)
        try workload.flush(disk, machine)
        if !isKilled { try workload.finish(disk, machine) }
        var replay = PowerCutReplay(machine)
        replay.advance(to: machine.position)
        var random = SeededRandom(seed: 5)
        return replay.state(.everything, using: &random)[0].bytes
    }

    @Test(arguments: Damage.allCases, [("64K", 1 << 20), ("512K", 8 << 20)] as [(String, UInt64)])
    func everyStateReadsAsBeforeAndCanBeRepaired(damage: Damage, _ kind: (block: String, size: UInt64)) throws {
        var bytes = try Self.image(
            VHD.self, size: kind.size, options: ["block_size": kind.block], isKilled: damage.isKilled)
        damage.apply(to: &bytes)
        let found = try Asking.check(bytes)
        #expect(found.findings.contains { $0.severity != .note || damage == .noFooter }, "\(found.findings)")
        #expect(try RepairPowerCut.sweep(VHD.self, bytes) > 4)
    }
}
