package import Bytes
internal import Formats
package import Storage

extension Disk {
    /// Makes `range` read as zeros and gives its space back where the format can. Throws like `write`; a part may read as
    /// zeros then and the rest as before.
    package func zero(_ range: ByteRange) throws(ImageError) {
        let writer = try writer(for: range)
        do throws(ImageError) {
            try writer.zero(ByteRange(base + range.lower, to: base + range.upper))
        } catch { throw report(error, of: "zero", at: range.lower) }
    }
}

extension Writer {
    /// How many bytes are released in one step, in whole allocation units: a step holds a lease and a gate, and what it
    /// frees is a list.
    private static let stepBytes: UInt64 = 256 << 20

    /// Makes a range of the disk that the layers show read as zeros.
    func zero(_ range: ByteRange) throws(ImageError) {
        try admit()
        var rest = range
        while !rest.isEmpty {
            let step = try nextStep(of: rest, wholeUnits: true)
            if step.readsData {
                try throttle()
                do throws(ImageError) { try release(step.range) } catch {
                    guard error.kind == .noSpace, try recoverSpace() else { throw error }
                    try release(step.range)
                }
            }
            rest = ByteRange(step.range.upper, to: rest.upper)
        }
    }

    /// The next piece of `range`: one that reads as zeros already and may be long, or one that does not. That is just the
    /// run, or, with `wholeUnits`, ends where an allocation unit or a step does.
    private func nextStep(
        of range: ByteRange, wholeUnits: Bool
    ) throws(ImageError) -> (range: ByteRange, readsData: Bool) {
        let lease = try begin()
        defer { leases.end(lease) }
        var runs = RunList(for: range)
        do throws(ImageError) { _ = try top.resolve(.placement, range, into: &runs) } catch {
            guard runs.count > 0 else { throw error }
        }
        var silent: UInt64 = 0
        var data: UInt64 = 0
        for index in 0..<runs.count {
            let run = runs[index]
            if run.isData ? silent > 0 : data > 0 { break }
            if run.isData { data += run.length } else { silent += run.length }
        }
        if silent > 0 { return (range.keeping(first: silent), false) }
        guard wholeUnits else { return (range.keeping(first: data), true) }
        // Units are taken whole, or the format could not give them back.
        let reach = range.lower.checkedAdding(max(Self.stepBytes, driver.shape.allocationUnit)) ?? .max
        let end = reach & ~(driver.shape.allocationUnit - 1)
        return (range.clipped(to: max(end, range.lower + 1)), true)
    }

    /// Releases a range of at most one step: by metadata what the driver can, zeros before and behind that. A driver may
    /// stop early where one change would touch too much metadata, so it is asked again for what it left.
    private func release(_ range: ByteRange) throws(ImageError) {
        var rest = range
        while !rest.isEmpty {
            let handled = try releaseUnits(rest)
            guard !handled.isEmpty else { break }
            try writeZeros(ByteRange(rest.lower, to: handled.lower))
            rest = ByteRange(handled.upper, to: rest.upper)
            if !rest.isEmpty { try throttle() }
        }
        try writeZeros(rest)
    }

    private func releaseUnits(_ range: ByteRange) throws(ImageError) -> ByteRange {
        let taken = gate.enter(range)
        defer { gate.leave(taken) }
        let lease = try begin()
        defer { leases.end(lease) }
        var freed: [HostRun] = []
        defer {
            note(freed)
            noteChange()
        }
        let handled = try driver.release(range, as: .readsZero, freed: &freed)
        guard handled.lower >= range.lower, handled.upper <= range.upper else {
            throw ImageError(.corrupt, "a release went outside its range", at: range.lower)
        }
        return handled.isEmpty ? ByteRange(range.lower, to: range.lower) : handled
    }

    /// Writes zeros where the disk does not read as zeros.
    private func writeZeros(_ range: ByteRange) throws(ImageError) {
        var rest = range
        while !rest.isEmpty {
            let step = try nextStep(of: rest, wholeUnits: false)
            if step.readsData { try write(step.range, .zeros) }
            rest = ByteRange(step.range.upper, to: rest.upper)
        }
    }
}
