internal import Bytes

/// Which units of 1 MiB of the file belong to something, and which of the others are known to be zeros: two bits a unit.
///
/// Numbers of units, not bytes. Known zero is only what this session has extended the file over or punched, and has given
/// to nobody since.
struct VHDXSpace: Sendable {
    /// How many units are kept track of, from the start of the file.
    private(set) var end: UInt64 = 0
    /// Whether anything was given out or back.
    private(set) var hasChanged = false

    private var owned: [UInt64] = []
    private var clean: [UInt64] = []
    /// Below these no run of the size is free: of one unit, and of a block.
    private var cursors: [UInt64: UInt64] = [:]

    /// The end of the last unit that belongs to something.
    var usedEnd: UInt64 {
        guard let word = owned.lastIndex(where: { $0 != 0 }) else { return 0 }
        return UInt64(word) * 64 + 64 - UInt64(owned[word].leadingZeroBitCount)
    }

    // MARK: - Size

    /// Keeps track of units up to `newEnd`; those that are new are free, and known to be zeros where `isClean` says so.
    mutating func extend(to newEnd: UInt64, isClean: Bool) {
        guard newEnd > end else { return }
        let words = Int(newEnd.dividedRoundingUp(by: 64))
        owned += [UInt64](repeating: 0, count: words - owned.count)
        clean += [UInt64](repeating: 0, count: words - clean.count)
        let added = end..<newEnd
        end = newEnd
        if isClean { Self.set(&clean, added) }
    }

    // MARK: - Ownership

    /// Gives units to somebody; false where one of them has an owner already, and nothing changes then.
    mutating func claim(_ units: Range<UInt64>) -> Bool {
        extend(to: units.upperBound, isClean: false)
        guard !Self.hasAny(owned, units) else { return false }
        Self.set(&owned, units)
        Self.clear(&clean, units)
        return true
    }

    /// Makes units unavailable, whoever owns them.
    mutating func block(_ units: Range<UInt64>) {
        let known = units.clamped(to: 0..<end)
        Self.set(&owned, known)
        Self.clear(&clean, known)
    }

    /// Gives units out that `find` has found, and says whether all of them are known to be zeros.
    mutating func take(_ units: Range<UInt64>) -> Bool {
        let isClean = isClean(units)
        Self.set(&owned, units)
        Self.clear(&clean, units)
        hasChanged = true
        return isClean
    }

    /// Takes units back.
    mutating func give(_ units: Range<UInt64>, isClean: Bool) {
        let known = units.clamped(to: 0..<end)
        guard !known.isEmpty else { return }
        Self.clear(&owned, known)
        if isClean { Self.set(&clean, known) } else { Self.clear(&clean, known) }
        hasChanged = true
        for (size, cursor) in cursors {
            // A run of the size may begin before the units that have come back.
            cursors[size] = min(cursor, known.lowerBound - min(known.lowerBound, size - 1))
        }
    }

    /// Whether all of the units are known to be zeros.
    func isClean(_ units: Range<UInt64>) -> Bool {
        units.allSatisfy { clean[Int($0 / 64)] >> ($0 % 64) & 1 == 1 }
    }

    /// Notes that free units have been made zeros.
    mutating func markClean(_ units: Range<UInt64>) { Self.set(&clean, units) }

    // MARK: - Looking

    /// The lowest run of `count` free units; nil where there is none.
    mutating func find(_ count: UInt64) -> Range<UInt64>? {
        var start = firstFree(from: cursors[count] ?? 0)
        while start < end {
            let runEnd = firstOwned(from: start, limit: start + count)
            if runEnd >= start + count {
                // What is found is taken, so the next one lies behind it.
                cursors[count] = start
                return start..<(start + count)
            }
            start = firstFree(from: runEnd)
        }
        cursors[count] = end - min(end, count - 1)
        return nil
    }

    /// The free units from `start` on, at most `limit` of them.
    func freeRun(from start: UInt64, limit: UInt64) -> Range<UInt64> {
        start..<firstOwned(from: start, limit: start + limit)
    }

    private func firstFree(from start: UInt64) -> UInt64 {
        guard start < end else { return end }
        var index = Int(start / 64)
        var free = ~owned[index] & (UInt64.max << (start % 64))
        while free == 0 {
            index += 1
            guard index < owned.count else { return end }
            free = ~owned[index]
        }
        return min(end, UInt64(index) * 64 + UInt64(free.trailingZeroBitCount))
    }

    private func firstOwned(from start: UInt64, limit: UInt64) -> UInt64 {
        let limit = min(limit, end)
        guard start < limit else { return start }
        var index = Int(start / 64)
        var found = owned[index] & (UInt64.max << (start % 64))
        while found == 0 {
            index += 1
            guard UInt64(index) * 64 < limit else { return limit }
            found = owned[index]
        }
        return min(limit, UInt64(index) * 64 + UInt64(found.trailingZeroBitCount))
    }

    // MARK: - Bits

    private static func forEachWord(_ units: Range<UInt64>, _ body: (Int, UInt64) -> Bool) {
        var position = units.lowerBound
        while position < units.upperBound {
            let wordEnd = min(units.upperBound, (position / 64 + 1) * 64)
            let count = wordEnd - position
            let mask = (count == 64 ? UInt64.max : (1 << count) - 1) << (position % 64)
            guard body(Int(position / 64), mask) else { return }
            position = wordEnd
        }
    }

    private static func set(_ bits: inout [UInt64], _ units: Range<UInt64>) {
        forEachWord(units) {
            bits[$0] |= $1
            return true
        }
    }

    private static func clear(_ bits: inout [UInt64], _ units: Range<UInt64>) {
        forEachWord(units) {
            bits[$0] &= ~$1
            return true
        }
    }

    private static func hasAny(_ bits: [UInt64], _ units: Range<UInt64>) -> Bool {
        var found = false
        forEachWord(units) {
            found = bits[$0] & $1 != 0
            return !found
        }
        return found
    }
}
