package import Bytes
package import Storage
internal import Synchronization

/// Which operation of the files of one image fails, and how.
package final class FaultPlan: Sendable {
    /// How the chosen operation fails.
    package enum Fault: Sendable, CaseIterable {
        /// With EIO; so does every one after it.
        case error
        /// With EIO, once.
        case errorOnce
        /// A read returns half of what it should, as if the file had been cut; other operations fail with EIO.
        case short
        /// What needs room on the host fails with ENOSPC, from the chosen operation on; nothing else is counted.
        case noSpace
        /// What needs room on the host fails with ENOSPC, once; nothing else is counted.
        case noSpaceOnce
    }

    /// What sort of operation it is.
    enum Operation {
        /// It changes nothing.
        case look
        /// It may need room on the host.
        case change
        /// It changes something without needing room, or flushes.
        case settle
    }

    private let fault: Fault
    private let chosen: Int
    private let countsLooks: Bool
    private let next = Atomic<Int>(0)
    private let isHealed = Atomic<Bool>(false)

    /// Fails operation `number` (the first is 0). Reads and seeks count where `countsLooks`.
    package init(failing number: Int, as fault: Fault = .error, countsLooks: Bool = true) {
        self.fault = fault
        chosen = number
        self.countsLooks = countsLooks
    }

    /// How many operations there have been that count.
    package var operations: Int { next.load(ordering: .relaxed) }

    /// From now on nothing fails.
    package func heal() { isHealed.store(true, ordering: .relaxed) }

    /// Counts an operation; true when it is to be short. Throws where it is to fail.
    func begin(_ operation: Operation) throws(ImageError) -> Bool {
        switch (fault, operation) {
        case (.noSpace, .look), (.noSpace, .settle), (.noSpaceOnce, .look), (.noSpaceOnce, .settle): return false
        case (_, .look) where !countsLooks: return false
        default: break
        }
        let number = next.wrappingAdd(1, ordering: .relaxed).oldValue
        guard !isHealed.load(ordering: .relaxed) else { return false }
        let failure = ImageError(.io, "a failure that the test asked for", detail: "operation \(number)")
        let full = ImageError(.noSpace, "no room, as the test asked for", detail: "operation \(number)")
        switch fault {
        case .error: if number >= chosen { throw failure }
        case .errorOnce: if number == chosen { throw failure }
        case .noSpace: if number >= chosen { throw full }
        case .noSpaceOnce: if number == chosen { throw full }
        case .short: return number == chosen
        }
        return false
    }

    func beginWhole(_ operation: Operation) throws(ImageError) {
        if try begin(operation) { throw ImageError(.io, "a failure that the test asked for") }
    }
}

/// Passes everything on to another storage until the operation that a plan has chosen, which fails.
package final class FaultStorage: Storage {
    /// How the chosen operation fails.
    package typealias Fault = FaultPlan.Fault

    private let storage: any Storage
    private let plan: FaultPlan

    /// Fails what `plan` says, which several files may share.
    package init(_ storage: any Storage, plan: FaultPlan) {
        self.storage = storage
        self.plan = plan
    }

    /// Fails operation `number` (the first is 0) of `storage`.
    package convenience init(_ storage: any Storage, failing number: Int, as fault: Fault = .error) {
        self.init(storage, plan: FaultPlan(failing: number, as: fault))
    }

    /// How many operations there have been.
    package var operations: Int { plan.operations }

    package var name: String { storage.name }

    package var identity: FileIdentity? { storage.identity }

    package var size: UInt64 { storage.size }

    package func refresh() throws(ImageError) -> UInt64 {
        try plan.beginWhole(.look)
        return try storage.refresh()
    }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        guard try plan.begin(.look) else { return try storage.read(at: offset, into: buffer) }
        return try storage.read(
            at: offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<(buffer.count / 2)]))
    }

    package func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? {
        try storage.splice(from: offset, count: try plan.begin(.look) ? count / 2 : count, into: pipe)
    }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        try plan.beginWhole(.look)
        return try storage.nextData(from: offset)
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        try plan.beginWhole(.look)
        return try storage.nextHole(from: offset)
    }

    package func allocatedBytes() throws(ImageError) -> UInt64 {
        try plan.beginWhole(.look)
        return try storage.allocatedBytes()
    }

    package var isWritable: Bool { storage.isWritable }

    /// A write that fails has written about half of its bytes, up to the end of a sector.
    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        do throws(ImageError) { try plan.beginWhole(.change) } catch {
            let middle = (offset.rawValue + UInt64(bytes.count / 2)) / 512 * 512
            let half = middle > offset.rawValue ? Int(middle - offset.rawValue) : 0
            if half > 0 { try storage.write(at: offset, UnsafeRawBufferPointer(rebasing: bytes[..<half])) }
            throw error
        }
        try storage.write(at: offset, bytes)
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        try plan.beginWhole(.change)
        try storage.zero(at: offset, count: count)
    }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        try plan.beginWhole(.settle)
        return try storage.punch(at: offset, count: count)
    }

    /// The simulated host has room without being asked, so that only the plan decides.
    package func allocate(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        try plan.beginWhole(.change)
        let isWithin = offset.advanced(by: count).map { $0.rawValue <= size } ?? false
        return try storage.allocate(at: offset, count: count) || isWithin
    }

    package func resize(to size: UInt64) throws(ImageError) {
        try plan.beginWhole(size > storage.size ? .change : .settle)
        try storage.resize(to: size)
    }

    package func flush() throws(ImageError) {
        try plan.beginWhole(.settle)
        try storage.flush()
    }

    package func close() { storage.close() }
}
