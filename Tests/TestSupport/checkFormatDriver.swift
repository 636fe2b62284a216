package import Bytes
package import Formats
package import Storage

/// What a driver's disk should hold.
package struct ExpectedDisk: Sendable {
    /// The content of a range of the disk.
    package var read: @Sendable (ByteRange) throws -> [UInt8]
    /// Whether every byte of a range must be `.zero` or `.hole` for `.allocation`; nil where nothing is known.
    package var isUnallocated: (@Sendable (ByteRange) -> Bool)?

    /// A disk of these bytes.
    package init(_ bytes: [UInt8], isUnallocated: (@Sendable (ByteRange) -> Bool)? = nil) {
        read = { Array(bytes[Int($0.lower)..<Int($0.upper)]) }
        self.isUnallocated = isUnallocated
    }

    /// The disk that another file holds raw (by `qemu-img convert`, say).
    package init(raw storage: any Storage) {
        read = { try storage.bytes(at: HostOffset($0.lower), count: Int($0.length)) }
    }
}

/// Checks that `driver` keeps the contract of `FormatDriver`: what `map` answers, alone and on many threads, that both
/// details agree about the bytes, and that an image open for reading refuses to be written.
///
/// `expected` is the content of this layer over `parent`; without it the driver is only compared with itself. `seed`
/// chooses the random ranges. Throws `ContractViolation` with the range and the answer, or the driver's own error.
package func checkFormatDriver(
    _ driver: any FormatDriver, parent: DriverReader? = nil, expected: ExpectedDisk? = nil, seed: UInt64 = 1
) throws {
    try DriverCheck(reader: DriverReader(driver, parent: parent), expected: expected, seed: seed).run()
    for index in driver.snapshots.indices {
        let snapshot = try driver.openSnapshot(index)
        try ContractViolation.check(
            snapshot.shape.virtualSize == driver.snapshots[index].virtualSize,
            "snapshot \(index) has another size than the list says")
        try DriverCheck(reader: DriverReader(snapshot, parent: parent), expected: nil, seed: seed).run()
    }
    try ContractViolation.check(
        failureKind { _ = try driver.openSnapshot(driver.snapshots.count) } == .outOfRange,
        "a snapshot past the last one has to be refused as out of range")
}

/// One run of the whole disk's map.
private struct MappedRun {
    var range: ByteRange
    var place: Extent.Place

    /// The same run from `lower` on, as a driver would say it if it were asked from there.
    func place(from lower: UInt64) -> Extent.Place {
        let skipped = lower - range.lower
        switch place {
        case .data(let file, let offset):
            return .data(file: file, offset: HostOffset(offset.rawValue + skipped))
        case .encoded(let file, let offset, let length, let skip):
            return .encoded(file: file, offset: offset, length: length, skip: skip + UInt32(skipped))
        case .zero, .hole:
            return place
        }
    }
}

private struct DriverCheck {
    let reader: DriverReader
    let expected: ExpectedDisk?
    let seed: UInt64

    var driver: any FormatDriver { reader.driver }
    var size: UInt64 { driver.shape.virtualSize }

    /// More runs than this are not kept: a disk of terabytes is checked at its beginning.
    static let runLimit = 50_000
    /// More bytes than this are not compared one by one.
    static let byteLimit: UInt64 = 64 << 20

    func run() throws {
        try checkShape()
        try checkRefusals()
        guard size > 0 else { return }
        var maps: [[MappedRun]] = []
        try withEvery("detail", in: [MapDetail.placement, .allocation]) { detail in
            let whole = try wholeMap(detail)
            try checkPartialAnswers(detail, against: whole)
            maps.append(whole)
        }
        try checkBytesAgree(maps[0], maps[1])
        try checkThreads(maps[0])
        try checkContent()
        try checkUnallocated(maps[1])
    }

    // MARK: - What is fixed

    func checkShape() throws {
        let shape = driver.shape
        try ContractViolation.check(
            shape.allocationUnit.isPowerOfTwo, "the allocation unit \(shape.allocationUnit) is no power of two")
        for sector in [shape.logicalSectorSize, shape.physicalSectorSize] {
            try ContractViolation.check([512, 4096].contains(sector), "a sector size of \(sector)")
        }
        try ContractViolation.check(size <= UInt64(Int64.max), "a disk of \(size) bytes, which no file can be")
        try ContractViolation.check(!driver.files.isEmpty, "no files")
        try ContractViolation.check(!shape.formatName.isEmpty && !shape.subformat.isEmpty, "a shape without names")
        try ContractViolation.check(driver.parent.map { !$0.paths.isEmpty } ?? true, "a parent without a path")
        if let decoder = driver.decoder {
            try ContractViolation.check(
                (1...(2 << 20)).contains(decoder.unitBytes), "a decoder of \(decoder.unitBytes) bytes a unit")
        }
    }

    func checkRefusals() throws {
        var freed: [HostRun] = []
        let range = ByteRange(0, to: min(size, 4096))
        try ContractViolation.check(
            failureKind { _ = try driver.reserve(range) } == .readOnly, "reserve does not refuse")
        for release in [Release.readsZero, .showsParent, .anything] {
            try ContractViolation.check(
                failureKind { _ = try driver.release(range, as: release, freed: &freed) } == .readOnly,
                "release as \(release) does not refuse")
        }
        try ContractViolation.check(
            failureKind {
                let plan = WritePlan(range: range, runs: ExtentList(for: range), fills: [], token: 0)
                try driver.publish(plan, freed: &freed)
            } == .readOnly, "publish does not refuse")
        driver.cancel(WritePlan(range: range, runs: ExtentList(for: range), fills: [], token: 0), freed: &freed)
        driver.reclaim([], zeroed: false)
        try ContractViolation.check(freed.isEmpty, "space freed of an image that is open for reading")
        try ContractViolation.check(try driver.freeze() == nil, "a batch of an image that is open for reading")
    }

    // MARK: - The map

    /// One call of `map`, its answer checked by itself.
    func map(_ range: ByteRange, _ detail: MapDetail) throws -> [MappedRun] {
        var list = ExtentList(for: range)
        try driver.map(detail, into: &list)
        try ContractViolation.check(list.range == range, "the answer is for \(list.range), not for \(range)")
        try ContractViolation.check(list.count > 0, "no run for \(range)")
        var rest = range
        var runs: [MappedRun] = []
        for index in 0..<list.count {
            let extent = list[index]
            try ContractViolation.check(extent.length > 0, "an empty run in \(range)")
            try ContractViolation.check(extent.length <= rest.length, "a run past the end of \(range)")
            let run = MappedRun(range: rest.keeping(first: extent.length), place: extent.place)
            try checkInsideFile(run)
            runs.append(run)
            rest = rest.dropping(first: extent.length)
        }
        try ContractViolation.check(list.covered == range.length - rest.length, "a wrong sum for \(range)")
        return runs
    }

    func checkInsideFile(_ run: MappedRun) throws {
        switch run.place {
        case .zero, .hole: break
        case .data(let slot, let offset):
            try ContractViolation.check(driver.files.indices.contains(Int(slot.rawValue)), "no file for \(run)")
            try ContractViolation.check(
                driver.files[Int(slot.rawValue)].holds(offset, count: run.range.length), "\(run) leaves its file")
        case .encoded(let slot, let offset, let length, let skip):
            try ContractViolation.check(driver.files.indices.contains(Int(slot.rawValue)), "no file for \(run)")
            try ContractViolation.check(
                length > 0 && offset.rawValue < driver.files[Int(slot.rawValue)].size, "\(run) leaves its file")
            let unit = UInt64(driver.decoder?.unitBytes ?? 0)
            try ContractViolation.check(UInt64(skip) + run.range.length <= unit, "\(run) is longer than its unit")
        }
    }

    /// Asks until the whole range is covered.
    func fullMap(_ range: ByteRange, _ detail: MapDetail, limit: Int = runLimit) throws -> [MappedRun] {
        var runs: [MappedRun] = []
        var rest = range
        while !rest.isEmpty, runs.count < limit {
            for run in try map(rest, detail) {
                rest = rest.dropping(first: run.range.length)
                if let last = runs.last, continues(last, with: run) {
                    runs[runs.count - 1].range = ByteRange(last.range.lower, to: run.range.upper)
                } else {
                    runs.append(run)
                }
            }
        }
        return runs
    }

    func continues(_ last: MappedRun, with run: MappedRun) -> Bool {
        if case .encoded = run.place { return false }
        return isSame(last.place(from: run.range.lower), run.place)
    }

    func isSame(_ left: Extent.Place, _ right: Extent.Place) -> Bool {
        switch (left, right) {
        case (.zero, .zero), (.hole, .hole): true
        case (.data(let file, let offset), .data(let otherFile, let otherOffset)):
            file == otherFile && offset == otherOffset
        case (
            .encoded(let file, let offset, let length, let skip),
            .encoded(let file2, let offset2, let length2, let skip2)
        ):
            file == file2 && offset == offset2 && length == length2 && skip == skip2
        default: false
        }
    }

    func wholeMap(_ detail: MapDetail) throws -> [MappedRun] { try fullMap(ByteRange(0, to: size), detail) }

    /// Ranges that break arithmetic: single bytes and odd lengths around the edges of units, of sectors, of the runs
    /// and of the disk, and some chosen by chance.
    func interestingRanges(_ whole: [MappedRun], seed: UInt64) -> [ByteRange] {
        let end = whole.last?.range.upper ?? size
        var random = SeededRandom(seed: seed)
        var edges: [UInt64] = [0, 512, 4096, driver.shape.allocationUnit, end / 2, end]
        for _ in 0..<12 { if let run = whole.randomElement(using: &random) { edges.append(run.range.lower) } }
        for _ in 0..<12 { edges.append(UInt64.random(in: 0..<end, using: &random)) }
        var ranges: [ByteRange] = []
        for edge in edges {
            for before in [0, 1, 511] as [UInt64] where edge >= before {
                for length in [1, 2, 512, 513, 70_000, end] as [UInt64] {
                    ranges.append(ByteRange(edge - before, to: min(edge - before + length, end)))
                }
            }
        }
        return ranges.filter { !$0.isEmpty }.shuffled(using: &random)
    }

    /// Every answer about a part of the disk is that part of the answer about the whole.
    func checkPartialAnswers(_ detail: MapDetail, against whole: [MappedRun]) throws {
        for range in interestingRanges(whole, seed: seed) { try checkPart(range, detail, of: whole, limit: 64) }
    }

    func checkPart(_ range: ByteRange, _ detail: MapDetail, of whole: [MappedRun], limit: Int) throws {
        var index = firstRun(whole, at: range.lower)
        for run in try fullMap(range, detail, limit: limit) {
            var lower = run.range.lower
            while lower < run.range.upper {
                guard index < whole.count else { break }
                let known = whole[index]
                try ContractViolation.check(
                    isSame(known.place(from: lower), run.place(from: lower)),
                    "byte \(lower) is \(run.place(from: lower)) when \(range) is asked for, "
                        + "and \(known.place(from: lower)) when the whole disk is")
                lower = min(known.range.upper, run.range.upper)
                if lower == known.range.upper { index += 1 }
            }
        }
    }

    func firstRun(_ whole: [MappedRun], at offset: UInt64) -> Int {
        var low = 0
        var high = whole.count
        while low < high {
            let middle = (low + high) / 2
            if whole[middle].range.upper <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Many threads ask at once, and each gets what one thread alone gets.
    func checkThreads(_ whole: [MappedRun]) throws {
        let check = self
        try concurrently(8) { thread in
            for range in check.interestingRanges(whole, seed: check.seed &+ UInt64(thread)).prefix(100) {
                try check.checkPart(range, .placement, of: whole, limit: 32)
            }
        }
    }

    // MARK: - The bytes

    /// Where the two details differ, the bytes are the same: `.placement` may call data what is a hole in the file.
    func checkBytesAgree(_ placement: [MappedRun], _ allocation: [MappedRun]) throws {
        var left = 0
        var compared: UInt64 = 0
        for run in allocation {
            while left < placement.count, placement[left].range.upper <= run.range.lower { left += 1 }
            var index = left
            while index < placement.count, placement[index].range.lower < run.range.upper {
                let other = placement[index]
                index += 1
                let lower = max(run.range.lower, other.range.lower)
                let both = ByteRange(lower, to: min(run.range.upper, other.range.upper))
                if isSame(run.place(from: lower), other.place(from: lower)) { continue }
                guard case .data(let slot, let offset) = other.place(from: lower), isZero(run.place) else {
                    throw ContractViolation("\(both) is \(run.place) for allocation but \(other.place) for placement")
                }
                // The host's holes are zeros by definition: a sample of each is enough.
                for part in [both.keeping(first: 65_536), both.dropping(first: both.length - min(both.length, 65_536))]
                {
                    guard compared < Self.byteLimit else { continue }
                    compared += part.length
                    let at = HostOffset(offset.rawValue + part.lower - lower)
                    let bytes = try driver.files[Int(slot.rawValue)].bytes(at: at, count: Int(part.length))
                    try ContractViolation.check(
                        bytes.allSatisfy { $0 == 0 }, "\(part) is a hole for allocation but holds data")
                }
            }
        }
    }

    func isZero(_ place: Extent.Place) -> Bool {
        switch place {
        case .zero: true
        case .hole: reader.parent == nil && driver.parent == nil
        default: false
        }
    }

    /// Reads the whole disk (of a large one, random parts), in pieces of odd sizes.
    func checkContent() throws {
        guard let expected else { return }
        var random = SeededRandom(seed: seed)
        var position: UInt64 = 0
        var ranges: [ByteRange] = []
        if size <= Self.byteLimit {
            while position < size {
                let length = UInt64.random(in: 1...(3 << 20), using: &random)
                ranges.append(ByteRange(position, to: min(position + length, size)))
                position += length
            }
        }
        for _ in 0..<100 {
            let lower = UInt64.random(in: 0..<size, using: &random)
            let length = UInt64.random(in: 1...(128 << 10), using: &random)
            ranges.append(ByteRange(lower, to: min(lower + length, size)))
        }
        for range in ranges {
            let found = try reader.read(range)
            let wanted = try expected.read(range)
            try ContractViolation.check(found.count == wanted.count, "\(found.count) bytes for \(range)")
            if let index = firstDifference(found, wanted) {
                let at = range.lower + UInt64(index)
                throw ContractViolation("byte \(at) is \(found[index]), not \(wanted[index]) (read of \(range))")
            }
        }
    }

    func checkUnallocated(_ allocation: [MappedRun]) throws {
        guard let isUnallocated = expected?.isUnallocated else { return }
        for run in allocation {
            switch run.place {
            case .zero, .hole: break
            case .data, .encoded:
                try ContractViolation.check(!isUnallocated(run.range), "\(run) should be a hole or zeros")
            }
        }
    }
}

/// The kind of failure of a call, or nil where it does not fail.
package func failureKind(_ body: () throws -> Void) -> ImageError.Kind? {
    do {
        try body()
        return nil
    } catch {
        return (error as? ImageError)?.kind
    }
}
