/// What of the changes that were not flushed survives a loss of power.
package enum Loss: Sendable, CaseIterable {
    /// All of it, as after SIGKILL.
    case nothing
    /// None of it.
    case everything
    /// Each sector by itself.
    case sectors
    /// Each sector by itself; most of them.
    case fewSectors
    /// Each write as a whole.
    case events
    /// All but one write.
    case oneEvent
    /// Only one write survives.
    case allButOneEvent
    /// Each file as a whole.
    case files
}

extension PowerCutMachine {
    /// The machine as it goes on when the program that wrote was killed after `count` events: everything written until then
    /// is there for the next program to see, and what was not flushed can still be lost with the power.
    package func killed(after count: Int) -> PowerCutMachine {
        var replay = PowerCutReplay(self)
        replay.advance(to: count)
        var random = SeededRandom(seed: 0)
        return PowerCutMachine(
            start, after: Array(log.prefix(count)), showing: replay.state(.nothing, using: &random), of: self)
    }
}

/// Goes through what happened to a machine from the start to the end, and makes the states that it might come back with.
package struct PowerCutReplay: Sendable {
    private let log: [PowerCutMachine.Event]
    /// The files with every change that was flushed before `position`.
    private var durable: [SparseBytes]
    /// What was not, per file, in order.
    private var pending: [[Int]]
    /// The number of events that have happened.
    package private(set) var position = 0

    /// The history of `machine` until now.
    package init(_ machine: PowerCutMachine) {
        log = machine.log
        durable = machine.start
        pending = durable.map { _ in [] }
    }

    /// Lets everything happen up to event `target`, which is not before the present position.
    package mutating func advance(to target: Int) {
        while position < min(target, log.count) {
            let event = log[position]
            if case .flush = event.change {
                for index in pending[event.file] { Self.apply(log[index].change, to: &durable[event.file]) }
                pending[event.file] = []
            } else {
                pending[event.file].append(position)
            }
            position += 1
        }
    }

    /// Whether a loss of power at the present position would lose nothing.
    package var isDurable: Bool { pending.allSatisfy(\.isEmpty) }

    /// The files after a loss of power at the present position. The same generator makes the same state.
    package func state(_ loss: Loss, using random: inout SeededRandom) -> [SparseBytes] {
        let all = pending.flatMap(\.self)
        let chosen = all.isEmpty ? nil : all[Int.random(in: 0..<all.count, using: &random)]
        return durable.indices.map { file in
            var content = durable[file]
            let survives = Bool.random(using: &random)
            for index in pending[file] {
                let isKept: Bool
                switch loss {
                case .nothing, .sectors, .fewSectors: isKept = true
                case .everything: isKept = false
                case .events: isKept = Bool.random(using: &random)
                case .oneEvent: isKept = index != chosen
                case .allButOneEvent: isKept = index == chosen
                case .files: isKept = survives
                }
                guard isKept else { continue }
                guard loss == .sectors || loss == .fewSectors else {
                    Self.apply(log[index].change, to: &content)
                    continue
                }
                Self.apply(log[index].change, to: &content) {
                    switch loss {
                    case .sectors: random.next() & 1 == 0
                    case .fewSectors: random.next() & 15 != 0
                    default: true
                    }
                }
            }
            return content
        }
    }

    /// Applies all of a change, as far as it lies within the file.
    private static func apply(_ change: PowerCutMachine.Change, to content: inout SparseBytes) {
        switch change {
        case .flush: break
        case .resize(let size): content.resize(to: size)
        case .zero(let offset, let count): content.zero(at: offset, count: count)
        case .write(let offset, let bytes):
            bytes.withUnsafeBytes { bytes in
                let count = min(bytes.count, max(0, content.size - offset))
                content.write(at: offset, UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            }
        }
    }

    /// Applies a change, piece by piece, as far as `survives` says. What lies past the end, because the growth was lost, is
    /// lost too.
    private static func apply(
        _ change: PowerCutMachine.Change, to content: inout SparseBytes, survives: () -> Bool
    ) {
        switch change {
        case .flush: break
        case .resize(let size): if survives() { content.resize(to: size) }
        case .zero(let offset, let count):
            // Extents are dropped in larger pieces than sectors.
            var done = 0
            while done < count {
                let step = min(4096 - (offset + done) % 4096, count - done)
                if survives() { content.zero(at: offset + done, count: step) }
                done += step
            }
        case .write(let offset, let bytes):
            bytes.withUnsafeBytes { bytes in
                var done = 0
                while done < bytes.count {
                    // Sectors that survive together are written together.
                    var end = done
                    while end < bytes.count, survives() { end += PowerCutMachine.sectorBytes }
                    let last = min(end, bytes.count, max(done, content.size - offset))
                    if last > done {
                        content.write(at: offset + done, UnsafeRawBufferPointer(rebasing: bytes[done..<last]))
                    }
                    done = end + (end < bytes.count ? PowerCutMachine.sectorBytes : 0)
                }
            }
        }
    }
}
