import Bytes
import Formats
import Storage
import TestSupport

/// Repairs that lose power, of any format.
enum RepairPowerCut {
    /// Repairs `bytes` and cuts the power at every event: each state reads as the image did before, and a second repair
    /// leaves no corruption and nothing else that one repair would not leave. Returns how many states there were. `most` and `losses` are those of `PowerCutSweep`.
    static func sweep(
        _ format: any ImageFormat.Type, _ bytes: [UInt8], most: Int = .max, losses: Int = 4
    ) throws -> Int {
        let before = PowerCutMachine([SparseBytes(bytes)])
        let content = try hash(format, before.storages[0])
        let whole = PowerCutMachine(before.contents)
        _ = try check(format, whole.storages[0], repairs: true)
        // Lost space between blocks, for example, is reported and stays.
        let wanted = try faults(format, whole.storages[0])
        var sweep = PowerCutSweep(before.contents, seed: 17)
        (sweep.most, sweep.losses) = (most, losses)
        return try sweep.run { storages in
            _ = try check(format, storages[0], repairs: true)
        } look: { machine in
            let storage = machine.storages[0]
            try ContractViolation.check(try hash(format, storage) == content, "the disk reads otherwise")
            try ContractViolation.check(machine.position == 0, "opening for reading has changed the file")
            let report = try check(format, storage, repairs: true)
            try ContractViolation.check(report.corruptions == 0, "\(report.findings)")
            let left = try faults(format, storage)
            try ContractViolation.check(left == wanted, "a second repair leaves \(left), one left \(wanted)")
            try ContractViolation.check(try hash(format, storage) == content, "repaired, the disk reads otherwise")
        }
    }

    /// What a check finds, but for notes. Throws where corruption is among it.
    private static func faults(_ format: any ImageFormat.Type, _ storage: any Storage) throws -> [String] {
        let report = try check(format, storage, repairs: false)
        try ContractViolation.check(report.corruptions == 0, "repaired, and still \(report.findings)")
        return report.findings.filter { $0.severity != .note }.map(\.what)
    }

    private static func check(
        _ format: any ImageFormat.Type, _ storage: any Storage, repairs: Bool
    ) throws -> CheckReport {
        try format.check(
            OpenRequest(storage: storage, companions: NoCompanions(), isWritable: repairs), repairs: repairs)
    }

    private static func hash(_ format: any ImageFormat.Type, _ storage: any Storage) throws -> String {
        let options = FormatOptions(cacheBytes: 256 << 10)
        return try DriverReader(
            format.open(OpenRequest(storage: storage, companions: NoCompanions(), options: options))
        ).hash()
    }
}
