internal import Bytes

/// What a disk may hold after a loss of power: for each sector every content that it was given, and when.
///
/// Time is the number of events of a `PowerCutMachine`. An operation that failed may have changed any of its sectors, and
/// counts as uncertain; what is then read back is noted as a write of its own.
package struct ModelDisk: Sendable {
    /// A content that sectors were given by one operation.
    fileprivate struct Operation: Sendable {
        /// The sectors from `first` on, whole.
        var first: Int
        var bytes: [UInt8]
        /// The event before which nothing of it had happened.
        var began: Int
        var isCertain: Bool
    }

    private struct Flush: Sendable {
        /// How many operations were acknowledged before it began.
        var operations: Int
        /// The event after which it had returned.
        var ended: Int
    }

    private static let sectorBytes = PowerCutMachine.sectorBytes

    /// The size of the disk in bytes.
    package let size: Int
    /// What the disk reads as now.
    package private(set) var latest: SparseBytes

    /// What the disk reads as at the time of the last `advance(to:)`.
    package private(set) var newest: SparseBytes

    /// How many operations `newest` holds.
    private var applied = 0
    private let initial: SparseBytes
    private var operations: [Operation] = []
    /// For each sector the operations that changed it, in order.
    private var history: [Int: [Int]] = [:]
    private var flushes: [Flush] = []

    /// A disk that holds `content`, all of it durable.
    package init(_ content: SparseBytes) {
        size = content.size
        latest = content
        initial = content
        newest = content
    }

    /// Notes that `bytes` are being written at `offset`, by an operation that began at event `began`.
    package mutating func write(_ bytes: [UInt8], at offset: Int, began: Int) {
        bytes.withUnsafeBytes { latest.write(at: offset, $0) }
        note(offset, bytes.count, began: began)
    }

    /// Notes that `count` bytes at `offset` are being zeroed.
    package mutating func zero(at offset: Int, count: Int, began: Int) {
        latest.zero(at: offset, count: count)
        note(offset, count, began: began)
    }

    /// Notes that the last operation failed, and what the disk holds in its range since.
    package mutating func fail(observed bytes: [UInt8], at offset: Int, began: Int) {
        guard !operations.isEmpty else { return }
        operations[operations.count - 1].isCertain = false
        write(bytes, at: offset, began: began)
    }

    /// Notes a flush that succeeded: everything noted before is durable since event `ended`.
    package mutating func flush(ended: Int) { flushes.append(Flush(operations: operations.count, ended: ended)) }

    /// Makes this the model of a disk whose writer was killed at event `time`: what came later has not happened, and the disk
    /// shows `content` since, which is one of those that a loss of power could have left. Throws a `ContractViolation`
    /// where it is not.
    package mutating func restart(at time: Int, showing content: SparseBytes) throws {
        try verify(content, at: time)
        advance(to: time)
        let kept = operations.firstIndex { $0.began > time } ?? operations.count
        operations.removeSubrange(kept...)
        for sector in Array(history.keys) { history[sector]?.removeAll { $0 >= kept } }
        flushes.removeAll { $0.ended > time }
        latest = newest
        // What was in memory only, metadata above all, went with the process. What the disk shows instead is what a flush
        // will make durable.
        let before = latest
        content.forEachDifference(from: before) { part, start in write(Array(part), at: start, began: time) }
        newest = latest
        applied = operations.count
    }

    private mutating func note(_ offset: Int, _ count: Int, began: Int) {
        guard count > 0 else { return }
        let first = offset / Self.sectorBytes
        let last = (offset + count - 1) / Self.sectorBytes
        let bytes = latest.bytes(at: first * Self.sectorBytes, count: (last - first + 1) * Self.sectorBytes)
        for sector in first...last { history[sector, default: []].append(operations.count) }
        operations.append(Operation(first: first, bytes: bytes, began: began, isCertain: true))
    }

    /// Throws a `ContractViolation` for the first sector of `content`, read after a loss of power at event `time`, that
    /// holds what it must not. Quick where `advance(to: time)` came before and `content` shares pages with `newest`.
    package func verify(_ content: SparseBytes, at time: Int) throws {
        try ContractViolation.check(content.size == size, "the disk has \(content.size) bytes, not \(size)")
        let durable = flushes.last { $0.ended <= time }?.operations ?? 0
        // Most of a disk holds what it was given last, which is always allowed.
        var model = self
        model.advance(to: time)
        try content.forEachDifference(from: model.newest) { part, start in
            try verifySectors(part, from: start / Self.sectorBytes, durable: durable, at: time)
        }
    }

    /// Makes `newest` what the disk would read as if everything that began until event `time` were there.
    package mutating func advance(to time: Int) {
        if operations.last.map({ $0.began <= time }) ?? true {
            (newest, applied) = (latest, operations.count)
            return
        }
        if applied > 0, operations[applied - 1].began > time { (newest, applied) = (initial, 0) }
        while applied < operations.count, operations[applied].began <= time {
            let operation = operations[applied]
            operation.bytes.withUnsafeBytes { newest.write(at: operation.first * Self.sectorBytes, $0) }
            newest.resize(to: size)
            applied += 1
        }
    }

    private func verifySectors(
        _ part: UnsafeRawBufferPointer, from first: Int, durable: Int, at time: Int
    ) throws {
        var done = 0
        while done < part.count {
            let sector = first + done / Self.sectorBytes
            let count = min(Self.sectorBytes, part.count - done)
            let bytes = UnsafeRawBufferPointer(rebasing: part[done..<(done + count)])
            if !isAllowed(bytes, in: sector, durable: durable, at: time) {
                throw ContractViolation(describe(bytes, in: sector, durable: durable, at: time))
            }
            done += count
        }
    }

    private func isAllowed(_ bytes: UnsafeRawBufferPointer, in sector: Int, durable: Int, at time: Int) -> Bool {
        let versions = history[sector] ?? []
        for index in versions.reversed() {
            let operation = operations[index]
            guard operation.began <= time else { continue }
            if operation.matches(bytes, in: sector) { return true }
            // Everything older was overwritten by this for good.
            if index < durable, operation.isCertain { return false }
        }
        return initial.matches(bytes, at: sector * Self.sectorBytes)
    }

    private func describe(_ bytes: UnsafeRawBufferPointer, in sector: Int, durable: Int, at time: Int) -> String {
        let versions = history[sector] ?? []
        let matching = versions.filter { operations[$0].matches(bytes, in: sector) }
        let isInitial = initial.matches(bytes, at: sector * Self.sectorBytes)
        let isZero = bytes.allSatisfy { $0 == 0 }
        return """
            sector \(sector) holds \(matching.isEmpty ? "what it was never given" : "the content of operations \(matching)")\
            \(isZero ? ", zeros" : "")\(isInitial ? ", its content from the start" : ""); it was changed by operations \
            \(versions), of which those before \(durable) are durable at event \(time)
            """
    }
}

extension ModelDisk.Operation {
    fileprivate func matches(_ content: UnsafeRawBufferPointer, in sector: Int) -> Bool {
        let start = (sector - first) * PowerCutMachine.sectorBytes
        return bytes.withUnsafeBytes {
            areEqual(UnsafeRawBufferPointer(rebasing: $0[start..<(start + content.count)]), content)
        }
    }
}
