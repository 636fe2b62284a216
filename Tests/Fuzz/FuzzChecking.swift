import Bytes
import Formats
import Storage
import TestSupport

/// Checks an image, and holds the check to its word: what it calls free of corruption opens and maps, and what it has
/// repaired stays repaired.
func exerciseCheck(_ storage: any Storage, _ format: any ImageFormat.Type, _ read: (any FormatDriver) throws -> Void)
    throws
{
    let options = FormatOptions(vhdSize: .current, cacheBytes: 256 << 10)
    func request(_ storage: any Storage, isWritable: Bool) -> OpenRequest {
        OpenRequest(storage: storage, companions: NoCompanions(), options: options, isWritable: isWritable)
    }
    let report = try format.check(request(storage, isWritable: false), repairs: false)
    try ContractViolation.check(report.findings.allSatisfy { !$0.what.isEmpty }, "a finding says nothing")
    if report.corruptions == 0 {
        do {
            try read(try format.open(request(storage, isWritable: false)))
        } catch let error as ImageError where error.kind == .corrupt || error.kind == .malformed {
            // A check looks at the metadata and decodes nothing.
            if "\(error.what)".hasPrefix("compressed data") { return }
            throw ContractViolation("the check found nothing, but reading fails: \(error)")
        }
    }
    let scratch = try ScratchStorage(storage)
    let repaired = try format.check(request(scratch, isWritable: true), repairs: true)
    let again = try format.check(request(scratch, isWritable: false), repairs: false)
    try ContractViolation.check(
        again.corruptions <= repaired.corruptions,
        """
        \(repaired.corruptions) corruptions were left by a repair, and then there are \(again.corruptions): \
        \(again.findings.filter { finding in
            !repaired.findings.contains { ($0.what, $0.offset) == (finding.what, finding.offset) }
        }.prefix(4)) after \(repaired.findings.filter(\.isRepaired).prefix(4))
        """)
}

/// Opens an image for writing and does what `Disk` does with the driver: plans, bytes, releases, commits. What was free of
/// corruption stays so.
func exerciseWriting(_ storage: any Storage, _ format: any ImageFormat.Type, seed: UInt64) throws {
    let scratch = try ScratchStorage(storage)
    let request = OpenRequest(
        storage: scratch, companions: NoCompanions(),
        options: FormatOptions(vhdSize: .current, cacheBytes: 256 << 10), isWritable: true)
    let before = try format.check(request, repairs: false)
    let writer = FuzzWriter(try format.open(request), seed: seed)
    var failure: ImageError?
    do { try writer.run() } catch let error as ImageError { failure = error }
    let after = try format.check(request, repairs: false)
    try ContractViolation.check(
        before.corruptions > 0 || after.corruptions == 0, "writing has corrupted the image: \(after.findings)")
    if let failure { throw failure }
}

/// A writer of one thread, as `Disk` would be.
private final class FuzzWriter {
    private let driver: any FormatDriver
    private var random: SeededRandom
    private var freed: [HostRun] = []

    init(_ driver: any FormatDriver, seed: UInt64) {
        self.driver = driver
        random = SeededRandom(seed: seed)
    }

    func run() throws {
        try driver.prepare()
        for round in 0..<24 {
            let range = range()
            if random.next() % 4 == 0 {
                let kinds = [Release.readsZero, .showsParent, .anything]
                let done = try driver.release(range, as: kinds[Int(random.next() % 3)], freed: &freed)
                try ContractViolation.check(
                    done.isEmpty || done.lower >= range.lower && done.upper <= range.upper, "a release goes too far")
            } else {
                try write(range)
            }
            if round % 5 == 4 || driver.wantsCommit { try commit() }
        }
        while try commit() {}
        try driver.close()
    }

    private func range() -> ByteRange {
        let size = driver.shape.virtualSize
        guard size > 0 else { return ByteRange(0, to: 0) }
        let start = [random.next() % size, random.next() % min(size, 8 << 20), size - 1][Int(random.next() % 3)]
        let sector = UInt64(driver.shape.logicalSectorSize)
        let lower = start / sector * sector
        return ByteRange(lower, to: min(size, lower + (random.next() % 64 + 1) * sector))
    }

    private func write(_ range: ByteRange) throws {
        guard !range.isEmpty else { return }
        var placed = ExtentList(for: range)
        try driver.inPlace(&placed)
        try fill(placed)
        let rest = range.dropping(first: placed.covered)
        guard !rest.isEmpty else { return }
        let plan = try driver.reserve(rest)
        let isRight = plan.range.lower == rest.lower && !plan.range.isEmpty && plan.range.upper <= rest.upper
        do {
            try ContractViolation.check(isRight, "a plan for another range")
            try fill(plan.runs)
            for fill in plan.fills where !fill.isKnownZero {
                try write(fill.target.offset.rawValue, min(fill.target.length, 64 << 10), fill.target.file)
            }
        } catch {
            driver.cancel(plan, freed: &freed)
            throw error
        }
        try driver.publish(plan, freed: &freed)
    }

    private func fill(_ runs: ExtentList) throws {
        for index in 0..<runs.count {
            guard case .data(let slot, let offset) = runs[index].place else {
                throw ContractViolation("a run to write to is no data")
            }
            try write(offset.rawValue, runs[index].length, slot)
        }
    }

    private func write(_ offset: UInt64, _ length: UInt64, _ slot: FileSlot) throws {
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: random.next()), count: Int(length))
        try driver.files[Int(slot.rawValue)].write(at: HostOffset(offset), bytes)
    }

    /// Writes one batch; false where there was none.
    @discardableResult
    private func commit() throws -> Bool {
        let dropped = freed
        freed = []
        guard let batch = try driver.freeze() else { return false }
        for page in batch.phases.flatMap(\.pages) {
            try driver.files[Int(page.file.rawValue)].write(at: page.offset, page.bytes)
        }
        driver.settle()
        driver.reclaim(dropped + batch.freed, zeroed: false)
        return true
    }
}
