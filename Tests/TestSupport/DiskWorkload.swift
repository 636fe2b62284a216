package import Bytes
package import Disk
package import Storage

/// Random writes, zeroes and flushes, from one seed, with a model that is told of each.
package struct DiskWorkload: Sendable {
    /// What the disk may hold.
    package var model: ModelDisk
    /// How many operations failed.
    package private(set) var failures = 0
    /// Whether failures are expected, and so noted rather than thrown.
    package var expectsFailures = false
    /// Every operation so far, for messages.
    package private(set) var story: [String] = []

    /// Where this is not 0, half of the zeroes take whole units of so many bytes, and half of the writes go to the start of
    /// one: space is given up and used again all the time.
    package var unit = 0

    private var random: SeededRandom
    private var operation = 0
    /// Where operations like to go, so that they meet.
    private let favourites: [Int]

    /// A workload on a disk that holds what `model` says.
    package init(_ model: ModelDisk, seed: UInt64) {
        self.model = model
        var random = SeededRandom(seed: seed)
        favourites = (0..<4).map { _ in Int.random(in: 0..<max(1, model.size), using: &random) & ~4095 }
        self.random = random
    }

    /// Runs `count` operations on `disk`, whose files are on `machine`. Throws what goes wrong.
    package mutating func run(_ count: Int, on disk: Disk, _ machine: PowerCutMachine, largest: Int = 4 << 20) throws {
        for _ in 0..<count {
            operation += 1
            switch random.next() % 32 {
            case 0..<18: try write(unitStart() ?? range(largest: largest), on: disk, machine)
            case 18..<25: try zero(wholeUnits() ?? range(largest: largest), on: disk, machine)
            case 25..<30: try flush(disk, machine)
            case 30: try attempt("rest", on: disk, machine) { try disk.rest() }
            default: try attempt("housekeeping", on: disk, machine) { try disk.housekeep() }
            }
        }
    }

    /// Flushes, and notes that everything before is durable.
    package mutating func flush(_ disk: Disk, _ machine: PowerCutMachine) throws {
        if try attempt("flush", on: disk, machine, { try disk.flush() }) { model.flush(ended: machine.position) }
    }

    /// Ends the session.
    package mutating func finish(_ disk: Disk, _ machine: PowerCutMachine) throws {
        if try attempt("finish", on: disk, machine, { try disk.finish() }) { model.flush(ended: machine.position) }
    }

    /// Goes on in the next session: the first was killed at event `time`, and the disk shows `content` since.
    package mutating func restart(at time: Int, showing content: SparseBytes) throws {
        story.append("killed at event \(time)")
        try model.restart(at: time, showing: content)
    }

    // MARK: - Operations

    /// One or two whole units; nil for any other range.
    private mutating func wholeUnits() -> Range<Int>? {
        guard unit > 0, unit <= model.size, random.next() % 2 == 0 else { return nil }
        let start = Int.random(in: 0..<(model.size / unit), using: &random) * unit
        return start..<min(start + unit * Int.random(in: 1...2, using: &random), model.size)
    }

    /// A few sectors at the start of a unit; nil for any other range.
    private mutating func unitStart() -> Range<Int>? {
        guard unit > 0, unit <= model.size, random.next() % 2 == 0 else { return nil }
        let start = Int.random(in: 0..<(model.size / unit), using: &random) * unit
        return start..<min(start + 512 * Int.random(in: 1...16, using: &random), model.size)
    }

    /// Anything from one byte to `largest`, small ones and aligned ones more often.
    private mutating func range(largest: Int) -> Range<Int> {
        let most: Int
        switch random.next() % 64 {
        case 0..<12: most = 600
        case 12..<36: most = 4096 * 4
        case 36..<56: most = 64 << 10
        case 56..<62: most = 1 << 20
        default: most = largest
        }
        let limit = min(most, largest, model.size)
        var count = Int.random(in: 1...limit, using: &random)
        var start = Int.random(in: 0...(model.size - count), using: &random)
        if random.next() % 2 == 0 {
            let place = favourites[Int(random.next() % UInt64(favourites.count))]
            start = min(place + Int.random(in: 0...8192, using: &random), model.size - count)
        }
        if random.next() % 3 != 0, count >= 4096 {
            start &= ~4095
            count &= ~4095
        }
        return start..<(start + count)
    }

    private mutating func write(_ range: Range<Int>, on disk: Disk, _ machine: PowerCutMachine) throws {
        let bytes = content(range.count)
        let began = machine.position
        model.write(bytes, at: range.lowerBound, began: began)
        let done = try attempt("write \(range)", on: disk, machine) {
            try bytes.withUnsafeBytes { try disk.write(ByteRange(range), from: $0) }
        }
        try done ? check(range, on: disk) : observe(range, on: disk, began: began)
    }

    private mutating func zero(_ range: Range<Int>, on disk: Disk, _ machine: PowerCutMachine) throws {
        let began = machine.position
        model.zero(at: range.lowerBound, count: range.count, began: began)
        let done = try attempt("zero \(range)", on: disk, machine) { try disk.zero(ByteRange(range)) }
        try done ? check(range, on: disk) : observe(range, on: disk, began: began)
    }

    /// Reads a range back at once: what was acknowledged must be there.
    private mutating func check(_ range: Range<Int>, on disk: Disk) throws {
        let start = max(0, range.lowerBound - 512)
        let around = start..<min(model.size, range.upperBound + 512)
        guard let bytes = try read(around, of: disk) else { return }
        guard let index = firstDifference(bytes, model.latest.bytes(at: start, count: around.count)) else { return }
        throw ContractViolation("after \(story.last ?? "") byte \(start + index) is wrong")
    }

    /// Notes what a failed operation left behind.
    private mutating func observe(_ range: Range<Int>, on disk: Disk, began: Int) throws {
        guard let bytes = try read(range, of: disk) else {
            // Nothing is known; the range is left as the operation wanted it, and that is uncertain too.
            model.fail(
                observed: model.latest.bytes(at: range.lowerBound, count: range.count), at: range.lowerBound,
                began: began)
            return
        }
        model.fail(observed: bytes, at: range.lowerBound, began: began)
    }

    private func read(_ range: Range<Int>, of disk: Disk) throws -> [UInt8]? {
        do { return try disk.contents(ByteRange(range)) } catch {
            guard expectsFailures else { throw error }
            return nil
        }
    }

    @discardableResult
    private mutating func attempt(
        _ what: String, on disk: Disk, _ machine: PowerCutMachine, _ body: () throws -> Void
    ) throws -> Bool {
        story.append("\(operation): \(what) at event \(machine.position)")
        do {
            try body()
            return true
        } catch {
            story[story.count - 1] += ", failed: \(error)"
            guard expectsFailures else { throw error }
            failures += 1
            return false
        }
    }

    /// Bytes that no other operation writes, each sector of them unlike the others.
    private mutating func content(_ count: Int) -> [UInt8] {
        let pattern = random.bytes(PowerCutMachine.sectorBytes)
        var result = zeroBytes(count)
        let operation = UInt32(truncatingIfNeeded: operation)
        result.withUnsafeMutableBytes { bytes in
            pattern.withUnsafeBytes { pattern in
                var done = 0
                while done < count {
                    let step = min(pattern.count, count - done)
                    UnsafeMutableRawBufferPointer(rebasing: bytes[done..<(done + step)])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: pattern[..<step]))
                    if step >= 8 {
                        bytes.storeBytes(of: operation, toByteOffset: done, as: UInt32.self)
                        bytes.storeBytes(
                            of: UInt32(truncatingIfNeeded: done / 512 + 1), toByteOffset: done + 4, as: UInt32.self)
                    }
                    done += step
                }
            }
        }
        return result
    }
}

extension ByteRange {
    fileprivate init(_ range: Range<Int>) { self.init(UInt64(range.lowerBound), to: UInt64(range.upperBound)) }
}

extension Disk {
    /// The bytes of `range`.
    package func contents(_ range: ByteRange) throws(ImageError) -> [UInt8] {
        var result = zeroBytes(Int(range.length))
        var failure: ImageError?
        result.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { try read(range, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return result
    }

    /// All of the bytes. Those that `like` holds too are shared with it. What the disk says are holes is taken for zeros,
    /// unless `everything` is to be read.
    package func contents(like: SparseBytes = SparseBytes(), everything: Bool = true) throws(ImageError) -> SparseBytes
    {
        var result = SparseBytes(size: Int(size))
        let page = UInt64(SparseBytes.pageBytes)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 * SparseBytes.pageBytes, alignment: 64)
        defer { buffer.deallocate() }
        var position: UInt64 = 0
        while position < size {
            var end = size
            if !everything {
                guard let start = try nextData(from: position) else { break }
                position = start / page * page
                end = try nextHole(from: start)
            }
            while position < end {
                let stop = min(size, position + UInt64(buffer.count), (end + page - 1) / page * page)
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(stop - position)])
                try read(ByteRange(position, to: stop), into: part)
                result.adopt(UnsafeRawBufferPointer(part), at: Int(position), like: like)
                position = stop
            }
        }
        return result
    }
}
