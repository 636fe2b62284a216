internal import Disk
internal import Storage

/// Writes an image on a host that fails at operation *n*, for many *n*: nothing may crash, the image must stay sound,
/// nothing that was flushed may be lost, and once a full host has room again writing goes on.
package struct FaultCampaign: Sendable {
    /// What is written.
    package var fixture: DiskFixture
    /// What everything random comes from.
    package var seed: UInt64
    /// How many operations one session has.
    package var operations: Int
    /// At most so many values of *n* are tried for each sort of failure, spread evenly.
    package var limit: Int
    /// The largest operation in bytes.
    package var largest: Int
    /// The unit of space that the workload gives up and uses again much (`DiskWorkload.unit`), in bytes, or 0.
    package var unit = 0

    /// A campaign with at most `limit` values of *n* for each sort of failure.
    package init(
        _ fixture: DiskFixture, seed: UInt64 = Torture.seed, operations: Int = 24, limit: Int = 60,
        largest: Int = 1 << 20
    ) {
        self.fixture = fixture
        self.seed = seed
        self.operations = operations
        self.limit = limit
        self.largest = largest
    }

    /// A campaign that tries every *n*, with a workload of so few operations that it can.
    package static func every(
        _ fixture: DiskFixture, seed: UInt64 = Torture.seed, operations: Int, largest: Int = 96 << 10, unit: Int = 0
    ) -> FaultCampaign {
        var campaign = FaultCampaign(fixture, seed: seed, operations: operations, limit: .max, largest: largest)
        campaign.unit = unit
        return campaign
    }

    /// Runs it, and returns how many sessions there were. Throws a `ContractViolation` that says which failure it was.
    @discardableResult
    package func run() throws -> Int {
        var sessions = 0
        let machine = PowerCutMachine(fixture.files.map(\.content), names: fixture.files.map(\.name))
        let content = try fixture.open(machine.storages, false).contents()
        for (fault, countsLooks) in [
            (FaultPlan.Fault.noSpaceOnce, false), (.noSpace, false), (.errorOnce, false), (.error, false),
            (.errorOnce, true), (.short, true),
        ] {
            let rehearsal = FaultPlan(failing: .max, as: fault, countsLooks: countsLooks)
            try session(content, rehearsal, fault)
            let total = rehearsal.operations
            for number in stride(from: 0, to: total, by: max(1, total / limit)) {
                let plan = FaultPlan(failing: number, as: fault, countsLooks: countsLooks)
                do { try session(content, plan, fault) } catch {
                    throw ContractViolation(
                        "\(error)\n  in \(fixture.name), seed \(seed), with \(fault) at operation \(number) of \(total)"
                    )
                }
                sessions += 1
            }
        }
        return sessions
    }

    private func session(_ content: SparseBytes, _ plan: FaultPlan, _ fault: FaultPlan.Fault) throws {
        var random = SeededRandom(seed: seed)
        let names = fixture.files.map(\.name)
        let machine = PowerCutMachine(fixture.files.map(\.content), names: names)
        var workload = DiskWorkload(ModelDisk(content), seed: random.next())
        workload.unit = unit
        workload.expectsFailures = true
        do {
            try write(&workload, on: machine, plan, isFull: fault == .noSpace || fault == .noSpaceOnce)
            try look(at: machine.contents, workload.model, machine, "after the process was killed")
            var replay = PowerCutReplay(machine)
            replay.advance(to: machine.position)
            for loss in [Loss.everything, .sectors, .oneEvent] {
                let state = replay.state(loss, using: &random)
                try look(at: state, workload.model, machine, "after the power was cut, losing \(loss)")
            }
        } catch { throw ContractViolation("\(error)\n    \(workload.story.joined(separator: "\n    "))") }
    }

    private func write(
        _ workload: inout DiskWorkload, on machine: PowerCutMachine, _ plan: FaultPlan, isFull: Bool
    ) throws {
        let storages = machine.storages.map { FaultStorage($0, plan: plan) as any Storage }
        // A host that fails while the image is opened keeps it from being opened.
        guard let disk = try opened(storages) else { return }
        try workload.run(operations, on: disk, machine, largest: largest)
        plan.heal()
        try workload.model.verify(try disk.contents(like: workload.model.latest), at: machine.position)
        // A full host spoils nothing: with room again everything works.
        if isFull { workload.expectsFailures = false }
        try workload.run(isFull ? 6 : 2, on: disk, machine, largest: 64 << 10)
        try workload.finish(disk, machine)
        try workload.model.verify(try disk.contents(like: workload.model.latest), at: machine.position)
    }

    private func opened(_ storages: [any Storage]) throws -> Disk? {
        do { return try fixture.open(storages, true) } catch is ImageError { return nil }
    }

    private func look(
        at state: [SparseBytes], _ model: ModelDisk, _ machine: PowerCutMachine, _ when: String
    ) throws {
        let back = PowerCutMachine(state, names: fixture.files.map(\.name))
        do {
            let content = try fixture.open(back.storages, false).contents(like: model.latest)
            try model.verify(content, at: machine.position)
        } catch { throw ContractViolation("\(error)\n  \(when)") }
        try fixture.checkClean(back.storages, when)
    }
}
