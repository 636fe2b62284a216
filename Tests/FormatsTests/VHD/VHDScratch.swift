import Bytes
import Formats
import Storage
import Synchronization
import TestSupport

/// A file in memory that can be written, remembers what was done to it, and fails where a test says so.
final class VHDScratch: Storage {
    enum Event {
        case write(UInt64, [UInt8])
        case resize(UInt64)
        case punch(UInt64, UInt64)
        case flush
    }

    private struct Content {
        var bytes: [UInt8]
        var events: [Event] = []
        var failure: (after: Int, error: ImageError)?
        var sizeLimit = UInt64.max
    }

    let name = "scratch.vhd"
    let identity: FileIdentity? = nil
    let isWritable = true
    /// Whether the host can punch holes.
    let canPunch: Bool
    private let content: Mutex<Content>

    init(_ bytes: [UInt8], canPunch: Bool = true) {
        self.canPunch = canPunch
        content = Mutex(Content(bytes: bytes))
    }

    var bytes: [UInt8] { content.withLock { $0.bytes } }
    var events: [Event] { content.withLock { $0.events } }
    var size: UInt64 { content.withLock { UInt64($0.bytes.count) } }

    /// Lets the operation that changes the file after `after` further ones fail once with `error`.
    func fail(after: Int, _ error: ImageError) { content.withLock { $0.failure = (after, error) } }

    /// Lets no write or resize make the file longer than `limit`.
    func limit(_ limit: UInt64) { content.withLock { $0.sizeLimit = limit } }

    func forgetEvents() { content.withLock { $0.events = [] } }

    func refresh() throws(ImageError) -> UInt64 { size }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        content.withLock { content in
            guard offset.rawValue < UInt64(content.bytes.count) else { return 0 }
            let start = Int(offset.rawValue)
            let count = min(buffer.count, content.bytes.count - start)
            content.bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + count)]))
            }
            return count
        }
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? { nil }
    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { offset.rawValue < size ? offset : nil }
    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { HostOffset(size) }
    func allocatedBytes() throws(ImageError) -> UInt64 { size }
    func close() {}

    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        try perform(.write(offset.rawValue, Array(bytes)))
    }

    func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        try perform(.punch(offset.rawValue, count))
    }

    func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard canPunch else { return false }
        try perform(.punch(offset.rawValue, count))
        return true
    }

    func resize(to size: UInt64) throws(ImageError) { try perform(.resize(size)) }

    func flush() throws(ImageError) { try perform(.flush) }

    private func perform(_ event: Event) throws(ImageError) {
        let failure = content.withLock { content -> ImageError? in
            if let failure = content.failure {
                content.failure = failure.after == 0 ? nil : (failure.after - 1, failure.error)
                if failure.after == 0 {
                    // Half of a write that fails has been done.
                    if case .write(let offset, let bytes) = event {
                        Self.apply(.write(offset, Array(bytes[..<(bytes.count / 2)])), to: &content.bytes)
                    }
                    return failure.error
                }
            }
            if case .write(let offset, let bytes) = event, offset + UInt64(bytes.count) > content.sizeLimit {
                return ImageError(.noSpace, "the host is full")
            }
            Self.apply(event, to: &content.bytes)
            content.events.append(event)
            return nil
        }
        if let failure { throw failure }
    }

    /// What a file becomes by an event.
    static func apply(_ event: Event, to file: inout [UInt8]) {
        switch event {
        case .write(let offset, let bytes):
            let end = Int(offset) + bytes.count
            if file.count < end { file += [UInt8](repeating: 0, count: end - file.count) }
            file.replaceSubrange(Int(offset)..<end, with: bytes)
        case .resize(let size):
            if Int(size) < file.count { file.removeLast(file.count - Int(size)) }
            file += [UInt8](repeating: 0, count: Int(size) - file.count)
        case .punch(let offset, let count):
            file.replaceSubrange(Int(offset)..<Int(offset + count), with: [UInt8](repeating: 0, count: Int(count)))
        case .flush: break
        }
    }
}

/// Does to one driver what `Disk` does to it, one call at a time, and remembers what the disk must read as.
struct VHDWriter {
    let file: VHDScratch
    let driver: any FormatDriver
    /// The layers below, the nearest one first.
    var below: [any FormatDriver] = []
    /// What the disk must read as.
    var model: [UInt8]
    private var freed: [HostRun] = []

    init(
        _ file: VHDScratch, below: [any FormatDriver] = [], options: FormatOptions = FormatOptions()
    ) throws {
        self.file = file
        self.below = below
        driver = try VHD.open(
            OpenRequest(storage: file, companions: NoCompanions(), options: options, isWritable: true))
        model = try Asking.read([driver] + below, ByteRange(0, to: driver.shape.virtualSize))
        try driver.prepare()
    }

    /// Writes `bytes` at `offset` of the disk.
    mutating func write(_ bytes: [UInt8], at offset: UInt64) throws {
        var rest = ByteRange(offset, to: offset + UInt64(bytes.count))
        while !rest.isEmpty {
            var list = ExtentList(for: rest)
            try driver.inPlace(&list)
            if list.covered > 0 {
                try put(list, bytes, from: offset)
                rest = rest.dropping(first: list.covered)
                continue
            }
            let plan = try driver.reserve(rest)
            let range = plan.range
            do {
                try put(plan.runs, bytes, from: offset)
                for fill in plan.fills { try self.fill(fill) }
            } catch {
                driver.cancel(plan, freed: &freed)
                throw error
            }
            try driver.publish(plan, freed: &freed)
            rest = rest.dropping(first: range.length)
        }
        model.replaceSubrange(Int(offset)..<(Int(offset) + bytes.count), with: bytes)
    }

    private func put(_ runs: ExtentList, _ bytes: [UInt8], from offset: UInt64) throws {
        var position = runs.range.lower
        for index in 0..<runs.count {
            guard case .data(_, let place) = runs[index].place else {
                throw ContractViolation("a plan without a place")
            }
            let start = Int(position - offset)
            try file.write(at: place, Array(bytes[start..<(start + Int(runs[index].length))]))
            position += runs[index].length
        }
    }

    private func fill(_ fill: WritePlan.Fill) throws {
        let bytes = try Asking.read([driver] + below, fill.range)
        guard !fill.isKnownZero || bytes.contains(where: { $0 != 0 }) else { return }
        try file.write(at: fill.target.offset, bytes)
    }

    /// Makes a range read as zeros.
    mutating func zero(_ range: ByteRange) throws {
        let done = try driver.release(range, as: .readsZero, freed: &freed)
        model.replaceSubrange(Int(done.lower)..<Int(done.upper), with: [UInt8](repeating: 0, count: Int(done.length)))
        for rest in [ByteRange(range.lower, to: done.lower), ByteRange(done.upper, to: range.upper)]
        where !rest.isEmpty {
            try write([UInt8](repeating: 0, count: Int(rest.length)), at: rest.lower)
        }
    }

    /// Commits everything, and gives back what was freed.
    mutating func flush() throws {
        while let batch = try driver.freeze() {
            for phase in batch.phases {
                for page in phase.pages { try file.write(at: page.offset, page.bytes) }
                if phase.hasBarrier { try file.flush() }
            }
            driver.settle()
            freed += batch.freed
        }
        try file.flush()
        for run in freed {
            let isZero = try file.punch(at: run.offset, count: run.length)
            driver.reclaim([run], zeroed: isZero)
        }
        freed = []
    }

    /// Ends the session.
    mutating func finish() throws {
        try flush()
        try driver.close()
    }

    /// Compares the disk with what it must read as: through this driver, and through a fresh one on the same bytes.
    func verify(fresh: Bool = false) throws {
        let top = fresh ? try Asking.open(file.bytes) : driver
        let bytes = try Asking.read([top] + below, ByteRange(0, to: top.shape.virtualSize))
        if let index = firstDifference(bytes, model) {
            throw ContractViolation("byte \(index) is \(bytes[index]), not \(model[index])")
        }
        try ContractViolation.check(bytes.count == model.count, "\(bytes.count) bytes, not \(model.count)")
    }
}

extension Asking {
    /// What a check says of these bytes.
    static func check(_ bytes: [UInt8], repairs: VHDScratch? = nil) throws -> CheckReport {
        let storage: any Storage = repairs ?? MemoryStorage(bytes)
        let request = OpenRequest(storage: storage, companions: NoCompanions(), isWritable: repairs != nil)
        return try VHD.check(request, repairs: repairs != nil)
    }

    /// The findings of a check that are more than notes, as "corruption: …".
    static func faults(_ bytes: [UInt8]) throws -> [String] {
        try check(bytes).findings.filter { $0.severity != .note }.map { "\($0.severity): \($0.what)" }
    }

    /// A new image, made by `VHD.create`.
    static func create(
        size: UInt64, _ options: [String: String] = [:], parent: CreateRequest.Parent? = nil
    ) throws -> VHDScratch {
        let file = VHDScratch([])
        try VHD.create(CreateRequest(storage: file, virtualSize: size, options: options, parent: parent))
        return file
    }
}
