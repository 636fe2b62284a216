package import Bytes
internal import Formats
package import Storage

/// What is written into a range.
enum Content: BitwiseCopyable {
    /// These bytes, as many as the range has.
    case bytes(UnsafeRawBufferPointer)
    /// Zeros.
    case zeros

    /// The content of the part of the range from `skip` on, `count` bytes long.
    func part(from skip: UInt64, count: UInt64) -> Content {
        switch self {
        case .bytes(let bytes): .bytes(UnsafeRawBufferPointer(rebasing: bytes[Int(skip)..<Int(skip + count)]))
        case .zeros: .zeros
        }
    }
}

extension Disk {
    /// Whether the disk may be written.
    package var isWritable: Bool { writer != nil }

    /// Writes `bytes`, as many as `range` has. What was there stays or is replaced, sector by sector, when this throws:
    /// `.noSpace` where the host has no room or the range lies past the end, `.readOnly`, `.corrupt`, `.io`.
    package func write(_ range: ByteRange, from bytes: UnsafeRawBufferPointer) throws(ImageError) {
        let writer = try writer(for: range)
        guard range.length == UInt64(bytes.count) else {
            throw ImageError(
                .outOfRange, "a write of more or fewer bytes than its range has", at: range.lower, file: name)
        }
        do throws(ImageError) {
            try writer.write(ByteRange(base + range.lower, to: base + range.upper), .bytes(bytes))
        } catch { throw report(error, of: "write", at: range.lower) }
    }

    /// The writer, for a change of `range`. Throws `.readOnly`, and `.noSpace` where the range is not within the disk.
    func writer(for range: ByteRange) throws(ImageError) -> Writer {
        guard let writer else { throw ImageError(.readOnly, "the disk is open for reading only", file: name) }
        guard range.upper <= size else {
            throw ImageError(.noSpace, "a write past the end of the disk", at: range.lower, file: name)
        }
        return writer
    }
}

extension Writer {
    /// The most bytes that one plan is asked for, in bytes, unless an allocation unit is larger.
    private static let planBytes: UInt64 = 4 << 20

    /// Writes `content` into a range of the disk that the layers show.
    func write(_ range: ByteRange, _ content: Content) throws(ImageError) {
        try admit()
        var done: UInt64 = 0
        while done < range.length {
            let rest = range.dropping(first: done)
            let content = content.part(from: done, count: rest.length)
            let inPlace = try writeInPlace(rest, content)
            done += inPlace > 0 ? inPlace : try allocate(rest, content)
        }
    }

    /// Writes the longest prefix that needs no metadata, and returns its length.
    private func writeInPlace(_ range: ByteRange, _ content: Content) throws(ImageError) -> UInt64 {
        let lease = try begin()
        defer { leases.end(lease) }
        return try putInPlace(range, content)
    }

    private func putInPlace(_ range: ByteRange, _ content: Content) throws(ImageError) -> UInt64 {
        var runs = ExtentList(for: range)
        try driver.inPlace(&runs)
        guard runs.count > 0 else { return 0 }
        // Also what fails may have changed some of the bytes.
        defer { noteChange(runs.covered) }
        try put(content, into: runs)
        return runs.covered
    }

    /// Writes a prefix of the range for which metadata changes, and returns its length. Called holding nothing.
    func allocate(_ range: ByteRange, _ content: Content) throws(ImageError) -> UInt64 {
        try throttle()
        let units = gate.units(of: range.keeping(first: 1))
        let reach = max(units.upper, range.lower.checkedAdding(Self.planBytes) ?? .max)
        let wanted = range.clipped(to: reach)
        do throws(ImageError) { return try carryOut(wanted, content) } catch {
            // Space that was dropped may be given out once the drop is durable; nothing is held here.
            guard error.kind == .noSpace, try recoverSpace() else { throw error }
        }
        return try carryOut(wanted, content)
    }

    private func carryOut(_ range: ByteRange, _ content: Content) throws(ImageError) -> UInt64 {
        let taken = gate.enter(range)
        defer { gate.leave(taken) }
        let lease = try begin()
        defer { leases.end(lease) }
        // Whoever was in these units before may have done what was missing.
        let inPlace = try putInPlace(range, content)
        if inPlace > 0 { return inPlace }
        var freed: [HostRun] = []
        defer { note(freed) }
        let plan: WritePlan
        do throws(ImageError) { plan = try driver.reserve(range) } catch {
            noteFailure(error)
            throw error
        }
        let covered = plan.range
        do throws(ImageError) { try put(content, by: plan, of: range) } catch {
            driver.cancel(plan, freed: &freed)
            throw error
        }
        defer { noteChange(covered.length) }
        try driver.publish(plan, freed: &freed)
        return covered.length
    }

    // MARK: - Plans

    /// Writes the bytes and the fills of a plan for a prefix of `range`.
    private func put(_ content: Content, by plan: borrowing WritePlan, of range: ByteRange) throws(ImageError) {
        guard plan.range.lower == range.lower, plan.range.upper <= range.upper, !plan.range.isEmpty,
            plan.runs.isComplete, plan.runs.range == plan.range
        else {
            throw ImageError(.corrupt, "the plan of a write does not cover it", at: range.lower)
        }
        if case .zeros = content, plan.isKnownZero {
            // Nothing to write, but the file must reach so far.
            try reach(plan.runs)
        } else {
            try put(content.part(from: 0, count: plan.range.length), into: plan.runs)
        }
        for fill in plan.fills { try self.fill(fill) }
    }

    /// Writes `content` to the places of `runs`, all of which are in files.
    private func put(_ content: Content, into runs: borrowing ExtentList) throws(ImageError) {
        var done: UInt64 = 0
        for index in 0..<runs.count {
            let run = runs[index]
            guard case .data(let slot, let offset) = run.place else {
                throw ImageError(.corrupt, "a write was sent to a place that is not in a file")
            }
            switch content {
            case .bytes(let bytes):
                let part = UnsafeRawBufferPointer(rebasing: bytes[Int(done)..<Int(done + run.length)])
                try file(slot).write(at: offset, part)
            case .zeros:
                try zero(HostRun(file: slot, offset: offset, length: run.length))
            }
            done += run.length
        }
    }

    /// Makes the files reach to the ends of `runs`, which read as zeros.
    private func reach(_ runs: borrowing ExtentList) throws(ImageError) {
        for index in 0..<runs.count {
            guard case .data(let slot, let offset) = runs[index].place else { continue }
            try reach(HostRun(file: slot, offset: offset, length: runs[index].length))
        }
    }
}
