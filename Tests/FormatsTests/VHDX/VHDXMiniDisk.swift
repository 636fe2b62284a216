import Bytes
import Formats
import Storage
import TestSupport

/// The plainest mover of bytes that keeps the contract of a driver: one thread, no leases. It remembers what every sector
/// may hold after a power cut.
final class VHDXMiniDisk {
    static let sector: UInt64 = 512

    let storage: VHDXCrashStorage
    let driver: any FormatDriver
    let reader: DriverReader
    private var isPrepared = false
    private var freed: [HostRun] = []
    private var batch: Batch?
    private(set) var batches: [Batch] = []

    /// What each sector may have held at any time: for states from before a commit.
    private(set) var allowed: [UInt64: [[UInt8]]] = [:]

    /// What each sector that was written holds, the durable content first; untouched ones are not in it.
    var model: [UInt64: [[UInt8]]]

    init(_ storage: VHDXCrashStorage, parent: DriverReader? = nil, model: [UInt64: [[UInt8]]] = [:]) throws {
        self.storage = storage
        driver = try VHDX.open(OpenRequest(storage: storage, companions: NoCompanions(), isWritable: true))
        reader = DriverReader(driver, parent: parent)
        self.model = model
    }

    var size: UInt64 { reader.size }

    // MARK: - Changes

    func write(_ offset: UInt64, _ bytes: [UInt8]) throws {
        let whole = ByteRange(offset, to: offset + UInt64(bytes.count))
        try note(whole, bytes)
        try prepare()
        var rest = whole
        while !rest.isEmpty {
            var runs = ExtentList(for: rest)
            try driver.inPlace(&runs)
            if runs.covered > 0 {
                try put(bytes, of: whole, runs)
                rest = rest.dropping(first: runs.covered)
                continue
            }
            if driver.wantsCommit { try commit() }
            let plan = try driver.reserve(rest)
            let range = plan.range
            guard range.lower == rest.lower, !range.isEmpty else { throw ContractViolation("a plan for \(range)") }
            do {
                try put(bytes, of: whole, plan.runs)
                for fill in plan.fills { try put(fill) }
            } catch {
                driver.cancel(plan, freed: &freed)
                throw error
            }
            try driver.publish(plan, freed: &freed)
            rest = rest.dropping(first: range.length)
        }
    }

    func zero(_ range: ByteRange, as release: Release = .readsZero) throws {
        try note(range, [UInt8](repeating: 0, count: Int(range.length)))
        try prepare()
        let done = try driver.release(range, as: release, freed: &freed)
        for rest in [ByteRange(range.lower, to: done.lower), ByteRange(done.upper, to: range.upper)] where !rest.isEmpty
        {
            try write(rest.lower, [UInt8](repeating: 0, count: Int(rest.length)))
        }
    }

    private func prepare() throws {
        guard !isPrepared else { return }
        try driver.prepare()
        isPrepared = true
    }

    private func put(_ bytes: [UInt8], of whole: ByteRange, _ runs: ExtentList) throws {
        var position = runs.range.lower
        for index in 0..<runs.count {
            guard case .data(_, let offset) = runs[index].place else { throw ContractViolation("no data in a plan") }
            let start = Int(position - whole.lower)
            try storage.write(at: offset, Array(bytes[start..<(start + Int(runs[index].length))]))
            position += runs[index].length
        }
    }

    private func put(_ fill: WritePlan.Fill) throws {
        guard fill.range.length == fill.target.length else { throw ContractViolation("a fill of unequal lengths") }
        let bytes = try reader.read(fill.range)
        if fill.isKnownZero {
            let there = try storage.bytes(at: fill.target.offset, count: bytes.count)
            let zeros = [UInt8](repeating: 0, count: bytes.count)
            guard firstDifference(there, zeros) == nil else { throw ContractViolation("\(fill.target) is not zeros") }
            if firstDifference(bytes, zeros) == nil { return }
        }
        try storage.write(at: fill.target.offset, bytes)
    }

    // MARK: - Commits

    func commit() throws {
        if batch == nil {
            batch = try driver.freeze()
            if let batch { batches.append(batch) }
        }
        guard let batch else {
            try storage.flush()
            return settleModel()
        }
        for phase in batch.phases {
            for page in phase.pages.shuffled() { try storage.write(at: page.offset, page.bytes) }
            if phase.hasBarrier { try storage.flush() }
        }
        self.batch = nil
        driver.settle()
        settleModel()
        let runs = freed + batch.freed
        freed = []
        for run in runs {
            let isZeroed = try storage.punch(at: run.offset, count: run.length)
            driver.reclaim([run], zeroed: isZeroed)
        }
    }

    func close() throws {
        try commit()
        try driver.close()
    }

    // MARK: - Model

    private func note(_ range: ByteRange, _ bytes: [UInt8]) throws {
        var position = range.lower / Self.sector * Self.sector
        while position < range.upper {
            let index = position / Self.sector
            var now = try model[index]?.last ?? reader.read(ByteRange(position, to: position + Self.sector))
            if model[index] == nil { model[index] = [now] }
            let from = max(position, range.lower)
            let to = min(position + Self.sector, range.upper)
            now.replaceSubrange(
                Int(from - position)..<Int(to - position),
                with: bytes[Int(from - range.lower)..<Int(to - range.lower)])
            model[index, default: []].append(now)
            allowed[index, default: [now]].append(now)
            if allowed[index]?.count == 2 { allowed[index] = model[index] }
            position += Self.sector
        }
    }

    private func settleModel() {
        for (index, contents) in model where contents.count > 1 { model[index] = [contents[contents.count - 1]] }
    }

    /// Every sector holds something that it may hold; `isExact` where only the last will do. Returns what it holds now.
    static func check(
        _ reader: DriverReader, _ model: [UInt64: [[UInt8]]], isExact: Bool = false
    ) throws -> [UInt64: [[UInt8]]] {
        var found: [UInt64: [[UInt8]]] = [:]
        for (index, contents) in model {
            let bytes = try reader.read(ByteRange(index * sector, to: (index + 1) * sector))
            let isAllowed = isExact ? bytes == contents[contents.count - 1] : contents.contains(bytes)
            guard isAllowed else {
                throw ContractViolation(
                    "sector \(index) holds \(bytes.prefix(4)), allowed are \(contents.map { Array($0.prefix(4)) })")
            }
            found[index] = [bytes]
        }
        return found
    }
}
