internal import Bytes
internal import Disk
internal import Formats
package import Storage

/// Writes an image, cuts the power at every moment and in many ways, and looks at what comes back.
///
/// Every state is opened for reading, which must change nothing; is checked, and must show no corruption; must read as the
/// model allows; and is opened for writing, written on and checked again. Some of them lose power a second time.
package struct PowerCutCampaign: Sendable {
    /// What a campaign looked at.
    package struct Counts: Sendable {
        /// States that were opened and checked.
        package var states = 0
        /// Those of a second session among them.
        package var second = 0
        /// Events that the power was cut at.
        package var moments = 0
    }

    /// What is written.
    package var fixture: DiskFixture
    /// What everything random comes from.
    package var seed: UInt64
    /// How many states are looked at, about.
    package var states: Int
    /// How many operations one session has.
    package var operations: Int
    /// The largest operation in bytes.
    package var largest: Int
    /// Whether the simulated filesystem can punch holes.
    package var canPunch = true
    /// Whether a session is killed at some event, and another one goes on from what it left in memory, before the power is
    /// cut: what the first did not flush can be lost under what the second has built on it.
    package var kills = false
    /// The unit of space that workloads give up and use again much (`DiskWorkload.unit`), in bytes, or 0.
    package var unit = 0

    /// A campaign of about `states` states (or what the environment says, see `Torture`) over as many sessions as that takes.
    package init(
        _ fixture: DiskFixture, seed: UInt64 = Torture.seed, states: Int = 2000, operations: Int = 40,
        largest: Int = 4 << 20
    ) {
        self.fixture = fixture
        self.seed = seed
        self.states = Torture.states(states)
        self.operations = operations
        self.largest = largest
    }

    /// Runs it. Throws a `ContractViolation` that names the seed and the state.
    @discardableResult
    package func run() throws -> Counts {
        var counts = Counts()
        var round: UInt64 = 0
        while counts.states < states {
            let seed = seed &* 1000 &+ round
            do {
                try session(seed, &counts)
            } catch {
                throw ContractViolation("\(error)\n  in \(fixture.name), session seed \(seed)")
            }
            round += 1
        }
        return counts
    }

    /// How many states are taken from one session. After a kill they are fewer: what matters then is how the first session
    /// ended.
    private var statesPerSession: Int { kills ? 80 : 400 }

    /// So many events after a kill are all looked at: until the first barrier the first session's writes can be lost.
    private static let eventsAfterKill = 20

    /// One session and its states.
    private func session(_ seed: UInt64, _ counts: inout Counts) throws {
        var random = SeededRandom(seed: seed)
        var machine = PowerCutMachine(
            fixture.files.map(\.content), names: fixture.files.map(\.name), canPunch: canPunch)
        var workload = DiskWorkload(ModelDisk(try content(of: machine)), seed: random.next())
        workload.unit = unit
        try write(&workload, on: machine, finishes: random.next() % 3 == 0, random.next() % 4 == 0 ? 8 : operations)
        var start = 0
        if kills {
            start = Int.random(in: 0...machine.position, using: &random)
            machine = try goOn(&workload, from: machine.killed(after: start), at: start, &random)
        }
        let budget = min(statesPerSession, states - counts.states)
        try cut(machine, workload, from: start, budget: budget, depth: 0, &random, &counts)
    }

    /// Writes on after the writer was killed at event `time`.
    private func goOn(
        _ workload: inout DiskWorkload, from machine: PowerCutMachine, at time: Int, _ random: inout SeededRandom
    ) throws -> PowerCutMachine {
        do {
            try workload.restart(at: time, showing: try content(of: machine, like: workload.model.latest))
            let disk = try fixture.open(machine.storages, true)
            // With nothing written this is still the promise that what can be read is durable.
            if Bool.random(using: &random) { try workload.flush(disk, machine) }
            try workload.run(random.next() % 4 == 0 ? 8 : operations, on: disk, machine, largest: largest)
        } catch { throw ContractViolation("\(error)\n  after \(workload.story.joined(separator: "\n    "))") }
        return machine
    }

    private func write(
        _ workload: inout DiskWorkload, on machine: PowerCutMachine, finishes: Bool, _ count: Int
    ) throws {
        let disk = try fixture.open(machine.storages, true)
        do {
            try workload.run(count, on: disk, machine, largest: largest)
            if finishes { try workload.finish(disk, machine) }
        } catch { throw ContractViolation("\(error)\n  after \(workload.story.joined(separator: "\n    "))") }
    }

    /// Looks at `budget` states of what has happened to `machine`.
    private func cut(
        _ machine: PowerCutMachine, _ workload: DiskWorkload, from start: Int = 0, budget: Int, depth: Int,
        _ random: inout SeededRandom, _ counts: inout Counts
    ) throws {
        var replay = PowerCutReplay(machine)
        var model = workload.model
        let total = machine.position
        var looked = 0
        for moment in moments(start...total, budget: max(1, budget / 2), &random) {
            replay.advance(to: moment)
            model.advance(to: moment)
            counts.moments += 1
            for loss in losses(budget: budget, moments: min(total - start, max(1, budget / 2)), &random)
            where looked < budget {
                var stateRandom = SeededRandom(seed: random.next())
                let state = replay.state(loss, using: &stateRandom)
                do {
                    try look(at: state, model, moment, depth: depth, &stateRandom, &counts)
                } catch {
                    let story = workload.story.joined(separator: "\n    ")
                    throw ContractViolation(
                        "\(error)\n  with the power cut at event \(moment) of \(total), losing \(loss)\n    \(story)")
                }
                looked += 1
            }
        }
    }

    /// The events to cut at, ascending: all of them where there are few.
    private func moments(_ all: ClosedRange<Int>, budget: Int, _ random: inout SeededRandom) -> [Int] {
        guard all.upperBound - all.lowerBound > budget else { return Array(all) }
        let first = kills ? min(budget / 2, Self.eventsAfterKill) : 0
        var chosen = Set(all.prefix(first) + (first..<budget).map { _ in Int.random(in: all, using: &random) })
        chosen.insert(all.upperBound)
        return chosen.sorted()
    }

    /// The ways to lose power at one moment: always all that was written, and some more.
    private func losses(budget: Int, moments: Int, _ random: inout SeededRandom) -> [Loss] {
        let count = max(1, budget / max(1, moments) - 1)
        return [.nothing] + (0..<count).map { _ in Loss.allCases.dropFirst().randomElement(using: &random) ?? .sectors }
    }

    // MARK: - One state

    private func look(
        at state: [SparseBytes], _ model: ModelDisk, _ moment: Int, depth: Int, _ random: inout SeededRandom,
        _ counts: inout Counts
    ) throws {
        counts.states += 1
        let machine = PowerCutMachine(state, names: fixture.files.map(\.name), canPunch: canPunch)
        // What is said to be a hole is mostly believed.
        let readsHoles = random.next() % 16 == 0
        let shown = try content(of: machine, like: model.newest, everything: readsHoles)
        try ContractViolation.check(machine.position == 0, "opening for reading has changed a file")
        try model.verify(shown, at: moment)
        try check(machine, "as it came back")
        if let oracle = fixture.oracle, random.next() % 256 == 0 { try oracle(state) }
        try writeOn(machine, shown, depth: depth, &random, &counts)
    }

    /// Opens a state for writing, writes, and cuts the power again now and then.
    private func writeOn(
        _ machine: PowerCutMachine, _ shown: SparseBytes, depth: Int, _ random: inout SeededRandom,
        _ counts: inout Counts
    ) throws {
        var workload = DiskWorkload(ModelDisk(shown), seed: random.next())
        workload.unit = unit
        let isLong = depth == 0 && random.next() % 16 == 0
        let looksTwice = isLong || random.next() % 4 == 0
        do {
            let disk = try fixture.open(machine.storages, true)
            if looksTwice {
                try ContractViolation.check(
                    try disk.contents(like: shown, everything: isLong).firstDifference(from: shown) == nil,
                    "opened for writing the disk reads otherwise than opened for reading")
            }
            try workload.run(isLong ? operations : 3, on: disk, machine, largest: isLong ? largest : 64 << 10)
            if random.next() % 2 == 0 { try workload.finish(disk, machine) } else { try workload.flush(disk, machine) }
            if looksTwice {
                let now = try disk.contents(like: workload.model.latest, everything: isLong)
                try workload.model.verify(now, at: machine.position)
            }
        } catch {
            throw ContractViolation(
                "\(error)\n  in the next session:\n    \(workload.story.joined(separator: "\n    "))")
        }
        try check(machine, "after the next session")
        let again = try content(of: machine, like: workload.model.latest, everything: isLong)
        try workload.model.verify(again, at: machine.position)
        guard isLong else { return }
        let before = counts.states
        try cut(machine, workload, budget: 24, depth: depth + 1, &random, &counts)
        counts.second += counts.states - before
    }

    // MARK: - Looking

    private func content(
        of machine: PowerCutMachine, like: SparseBytes = SparseBytes(), everything: Bool = true
    ) throws -> SparseBytes {
        try fixture.open(machine.storages, false).contents(like: like, everything: everything)
    }

    private func check(_ machine: PowerCutMachine, _ when: String) throws {
        try fixture.checkClean(machine.storages, when)
    }
}

extension DiskFixture {
    /// Throws a `ContractViolation` where a check finds corruption.
    package func checkClean(_ storages: [any Storage], _ when: String) throws {
        let report = try check(storages)
        guard report.corruptions > 0 else { return }
        let first = report.findings.filter { $0.severity == .corruption }.prefix(3)
            .map { "\($0.what) at \($0.offset.map(String.init) ?? "no place")" }
        throw ContractViolation("\(report.corruptions) corruptions \(when): \(first.joined(separator: "; "))")
    }
}
