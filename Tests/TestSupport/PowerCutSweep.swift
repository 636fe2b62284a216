package import Storage

/// Does one thing to files, a repair for example, and cuts the power at each of its events: what a whole campaign does for
/// sessions of a disk.
package struct PowerCutSweep: Sendable {
    /// The files as they are before.
    package var files: [SparseBytes]
    /// What everything random comes from.
    package var seed: UInt64
    /// How many random losses are tried at each event, besides that of nothing and that of everything.
    package var losses = 4
    /// The power is cut at about so many events at most, spread evenly; the last one is always among them.
    package var most = Int.max

    /// A sweep over what is done to `files`.
    package init(_ files: [SparseBytes], seed: UInt64 = Torture.seed) {
        self.files = files
        self.seed = seed
    }

    /// Runs `body` on the files and calls `look` with machines as they may come back; returns how many there were. Throws a
    /// `ContractViolation` with the event where `look` throws, and where `body` leaves something that is not flushed.
    @discardableResult
    package func run(
        _ body: ([any Storage]) throws -> Void, look: (PowerCutMachine) throws -> Void
    ) throws -> Int {
        let machine = PowerCutMachine(files)
        try body(machine.storages)
        let total = machine.position
        var random = SeededRandom(seed: seed)
        var replay = PowerCutReplay(machine)
        var count = 0
        let step = max(1, total / most)
        for moment in stride(from: total % step, through: total, by: step) {
            replay.advance(to: moment)
            let chosen = (0..<losses).map { _ in Loss.allCases.randomElement(using: &random) ?? .sectors }
            for loss in [Loss.nothing, .everything] + (replay.isDurable ? [] : chosen) {
                let state = replay.state(loss, using: &random)
                count += 1
                do { try look(PowerCutMachine(state)) } catch {
                    throw ContractViolation(
                        "\(error)\n  with the power cut at event \(moment) of \(total), losing \(loss), seed \(seed)")
                }
            }
        }
        try ContractViolation.check(replay.isDurable, "not everything is durable at the end")
        return count
    }
}
