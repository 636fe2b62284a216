import Bytes
import Formats
import Glibc
import Storage
import TestSupport

/// The least that writes through a driver: what `Disk` does, one step at a time and in one thread, so that a test can put
/// itself between any two of them.
final class QCOW2Session {
    let driver: any FormatDriver
    let reader: DriverReader
    private var freed: [HostRun] = []
    /// How many plans there were, and how many barriers.
    private(set) var planCount = 0
    private(set) var barrierCount = 0

    /// Opens the image in `storage` for writing and makes it ready.
    init(
        _ storage: any Storage, companions: any CompanionOpener = NoCompanions(), parent: DriverReader? = nil
    ) throws {
        let options = FormatOptions(cacheBytes: 256 << 10)
        let request = OpenRequest(storage: storage, companions: companions, options: options, isWritable: true)
        driver = try QCOW2.open(request)
        reader = DriverReader(driver, parent: parent)
        try driver.prepare()
    }

    /// Opens the image at `path`, and its parent and data file beside it.
    convenience init(path: String, companions: any CompanionOpener = NoCompanions()) throws {
        let parent = try? TestChain.open(path).parent
        try self.init(FileStorage(path: path, isWritable: true), companions: companions, parent: parent)
    }

    // MARK: - Guest

    func write(_ bytes: [UInt8], at offset: UInt64) throws {
        var done = 0
        while done < bytes.count {
            let range = ByteRange(offset + UInt64(done), to: offset + UInt64(bytes.count))
            var present = ExtentList(for: range)
            try driver.inPlace(&present)
            if present.count > 0 {
                try put(bytes[done..<(done + Int(present.covered))], to: present)
                done += Int(present.covered)
                continue
            }
            planCount += 1
            let plan = try driver.reserve(range)
            let count = Int(plan.range.length)
            guard count > 0, plan.runs.isComplete, plan.range.lower == range.lower else {
                throw ContractViolation("a plan of \(plan.range) for \(range)")
            }
            do {
                for fill in plan.fills { try self.fill(fill) }
                let part = bytes[done..<(done + count)]
                if !(plan.isKnownZero && part.allSatisfy { $0 == 0 }) { try put(part, to: plan.runs) }
            } catch {
                driver.cancel(plan, freed: &freed)
                throw error
            }
            try driver.publish(plan, freed: &freed)
            done += count
        }
    }

    private func put(_ bytes: ArraySlice<UInt8>, to runs: ExtentList) throws {
        var start = bytes.startIndex
        for index in 0..<runs.count {
            guard case .data(let slot, let offset) = runs[index].place else {
                throw ContractViolation("a target that is not data")
            }
            let end = start + Int(runs[index].length)
            try driver.files[Int(slot.rawValue)].write(at: offset, Array(bytes[start..<end]))
            start = end
        }
    }

    private func fill(_ fill: WritePlan.Fill) throws {
        let bytes = try reader.read(fill.range)
        guard fill.range.upper <= reader.size, fill.target.length == fill.range.length else {
            throw ContractViolation("a fill of \(fill.range) to \(fill.target.length) bytes")
        }
        if fill.isKnownZero, bytes.allSatisfy({ $0 == 0 }) { return }
        try driver.files[Int(fill.target.file.rawValue)].write(at: fill.target.offset, bytes)
    }

    /// Reserves and gives the plan back, after writing to its place where nobody reads that yet.
    func abandon(_ bytes: [UInt8], at offset: UInt64) throws {
        let plan = try driver.reserve(ByteRange(offset, to: offset + UInt64(bytes.count)))
        let isInUse = try reader.runs(plan.range).contains { if case .data = $0.place { true } else { false } }
        if !isInUse { try put(bytes[..<Int(plan.range.length)], to: plan.runs) }
        driver.cancel(plan, freed: &freed)
    }

    /// Makes a range read as zeros.
    func zero(_ range: ByteRange) throws {
        let handled = try driver.release(range, as: .readsZero, freed: &freed)
        guard handled.isEmpty || (handled.lower >= range.lower && handled.upper <= range.upper) else {
            throw ContractViolation("\(handled) was released of \(range)")
        }
        if handled.isEmpty {
            try write([UInt8](repeating: 0, count: Int(range.length)), at: range.lower)
        } else {
            try write([UInt8](repeating: 0, count: Int(handled.lower - range.lower)), at: range.lower)
            try write([UInt8](repeating: 0, count: Int(range.upper - handled.upper)), at: handled.upper)
        }
    }

    // MARK: - Commit

    /// Writes one batch; false where there is none. `between` runs after the freeze and after each phase.
    @discardableResult
    func commit(between: () throws -> Void = {}) throws -> Bool {
        let dropped = freed
        freed = []
        guard let batch = try driver.freeze() else {
            try barrier()
            reclaim(dropped)
            return false
        }
        try between()
        for phase in batch.phases {
            for page in phase.pages { try driver.files[Int(page.file.rawValue)].write(at: page.offset, page.bytes) }
            if phase.hasBarrier { try barrier() }
            try between()
        }
        driver.settle()
        reclaim(dropped + batch.freed)
        return true
    }

    private func barrier() throws {
        barrierCount += 1
        for file in driver.files { try file.flush() }
    }

    private func reclaim(_ runs: [HostRun]) {
        for run in runs {
            let punched = try? driver.files[Int(run.file.rawValue)].punch(at: run.offset, count: run.length)
            driver.reclaim([run], zeroed: punched == true)
        }
    }

    /// Ends the session as `Disk` does.
    func finish() throws {
        var rounds = 0
        while try commit() || !freed.isEmpty {
            rounds += 1
            guard rounds < 16 else { throw ContractViolation("there is always another batch") }
        }
        try driver.close()
        try barrier()
    }

    func read(_ offset: UInt64, _ count: Int) throws -> [UInt8] {
        try reader.read(ByteRange(offset, to: offset + UInt64(count)))
    }
}

/// A companion opener that gives one file, whatever it is called.
struct OneCompanion: CompanionOpener {
    let storage: any Storage

    func openDataFile(_ name: String) throws(ImageError) -> any Storage { storage }
}

/// A disk in memory, and the random workload that goes to it and to an image alike.
struct QCOW2Workload {
    var content: [UInt8]
    var random: SeededRandom
    /// The unit that half of all ranges begin and end on.
    let unit: Int

    init(_ content: [UInt8], unit: Int, seed: UInt64) {
        self.content = content
        self.unit = unit
        random = SeededRandom(seed: seed)
    }

    private mutating func number(_ limit: Int) -> Int { Int(random.next() % UInt64(max(limit, 1))) }

    mutating func range(longest: Int) -> Range<Int> {
        let grain = [unit, 512, 1][number(3)]
        let start = number(content.count) / grain * grain
        let length = (number(min(longest, content.count - start)) / grain + 1) * grain
        return start..<min(start + length, content.count)
    }

    // Collections take their time over each byte in a debug build.

    private mutating func clear(_ range: Range<Int>) {
        content.withUnsafeMutableBytes { content in
            guard let start = UnsafeMutableRawBufferPointer(rebasing: content[range]).baseAddress else { return }
            memset(start, 0, range.count)
        }
    }

    /// Puts bytes into the model.
    mutating func put(_ bytes: [UInt8], at offset: Int) {
        content.withUnsafeMutableBytes { content in
            bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: content[offset...]).copyMemory(from: $0) }
        }
    }

    /// One write or release, done to the session and to the model.
    mutating func step(_ session: QCOW2Session, longest: Int, note: (Range<Int>) -> Void = { _ in }) throws {
        let range = range(longest: longest)
        let start = UInt64(range.lowerBound)
        switch number(8) {
        case 0, 1:
            clear(range)
            note(range)
            try session.zero(ByteRange(start, to: UInt64(range.upperBound)))
        case 2:
            clear(range)
            note(range)
            try session.write([UInt8](repeating: 0, count: range.count), at: start)
        case 3:
            try session.abandon([UInt8](repeating: 0xEE, count: range.count), at: start)
        default:
            let value = UInt8(truncatingIfNeeded: random.next())
            // Each sector says where it belongs and when it was written.
            var bytes = [UInt8](repeating: value | 1, count: range.count)
            for index in stride(from: 0, to: bytes.count, by: 256) {
                bytes[index] = UInt8(truncatingIfNeeded: index >> 8)
            }
            put(bytes, at: range.lowerBound)
            note(range)
            try session.write(bytes, at: start)
        }
    }
}
