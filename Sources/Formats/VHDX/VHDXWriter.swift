internal import Bytes
internal import Storage
internal import Synchronization

/// The writing side of an open image: what is reserved, what is changed, what is logged.
///
/// Two locks, each for one side. `state` is that of the writers of the disk: free space, plans, and every change of the
/// metadata. `session` is that of the one thread that commits: header and log. Where both are needed, `session` is taken
/// first.
final class VHDXWriter: Sendable {
    /// What one plan does to one block when it is published.
    struct Change: Sendable {
        /// What becomes of the block.
        enum Kind: Sendable {
            /// It is FULLY_PRESENT at a new place.
            case full
            /// It is PARTIALLY_PRESENT at a new place, with the sectors of the plan and no others.
            case partial
            /// Further sectors of it are present, at the place that it has.
            case sectors
        }

        var kind: Kind
        /// The payload block.
        var block: UInt64
        /// Where it lies, in bytes.
        var offset: UInt64
        /// Where the sector bitmap lies that covers it; 0 where none is needed.
        var bitmap: UInt64 = 0
        /// The sectors of the plan, as bits of the chunk's bitmap.
        var bits: Range<UInt64> = 0..<0
    }

    /// What the writers of the disk share.
    struct State: Sendable {
        /// The file's space; nil until it is needed.
        var space: VHDXSpace?
        /// What the plans under way will change, by their tokens.
        var plans: [UInt64: [Change]] = [:]
        /// The token of the next plan.
        var nextPlan: UInt64 = 1
        /// Sector bitmaps that have a place, are zeros, and are in no table yet, by the index of their entry.
        var bitmaps: [UInt64: UInt64] = [:]
        /// The entries of sector bitmaps that have become PRESENT since the last batch.
        var newBitmaps: [UInt64] = []
    }

    /// What belongs to the thread that commits.
    struct Session: Sendable {
        /// The header in force.
        var header: VHDXHeaderUpdate
        /// Whether the header announces changes.
        var isPrepared = false
        /// The log while it is in use.
        var log: VHDXLogWriter?
    }

    /// A table of at most so many bytes is checked when the image is opened: 512 GiB in blocks of 1 MiB. A larger one is
    /// checked before the first change, so that opening the largest disk costs what opening a small one does.
    private static let checkedAtOpen: UInt64 = 4 << 20

    let storage: any Storage
    let table: VHDXTable
    let lookup: VHDXLookup
    let store: MetadataStore
    /// Whether every block keeps its space.
    let isFixed: Bool
    let logOffset: UInt64
    let logLength: UInt64
    let state: Mutex<State>
    let session: Mutex<Session>

    /// The writer of an image whose log is empty. Throws `.corrupt` for an image in which nothing can be written without
    /// danger to something else, and `.io`.
    init(_ foundation: VHDXFoundation, _ lookup: VHDXLookup, _ store: MetadataStore) throws(ImageError) {
        storage = foundation.storage
        table = lookup.table
        self.lookup = lookup
        self.store = store
        isFixed = foundation.metadata.leavesBlocksAllocated
        logOffset = foundation.header.logOffset
        logLength = foundation.header.logLength
        session = Mutex(Session(header: try VHDXHeaderUpdate(storage, foundation.header)))
        var state = State()
        if table.entryCount * VHDXTable.entryBytes <= Self.checkedAtOpen {
            state.space = try VHDXScan.space(storage, table, lookup.regions)
        }
        self.state = Mutex(state)
    }

    /// How many units of 1 MiB a block takes.
    var blockUnits: UInt64 { table.blockSize / VHDX.unit }

    /// Changes the entry at `index` of the table. Throws `.io`.
    func setEntry(_ index: UInt64, to word: UInt64) throws(ImageError) {
        var stored = word.littleEndian
        var failure: ImageError?
        withUnsafeBytes(of: &stored) { bytes in
            do throws(ImageError) {
                try store.write(at: table.place(ofEntry: index), bytes, phase: .later)
            } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// Writing, as the disk asks for it.
extension VHDXDriver {
    func prepare() throws(ImageError) {
        guard let writer else { throw .openForReading }
        try writer.prepare()
    }

    func inPlace(_ runs: inout ExtentList) throws(ImageError) {
        guard writer != nil else { return }
        var found = ExtentList(for: runs.remaining)
        try map(.placement, into: &found)
        for index in 0..<found.count {
            guard case .data = found[index].place, runs.append(found[index].place, length: found[index].length)
            else { return }
        }
    }

    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan {
        guard let writer else { throw .openForReading }
        return try writer.reserve(range)
    }

    func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError) {
        guard let writer else { throw .openForReading }
        try writer.publish(plan.token, &freed)
    }

    func cancel(_ plan: consuming WritePlan, freed: inout [HostRun]) { writer?.cancel(plan.token) }

    func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange {
        guard let writer else { throw .openForReading }
        return try writer.release(range, as: release, &freed)
    }

    var wantsCommit: Bool { writer?.wantsCommit ?? false }

    func freeze() throws(ImageError) -> Batch? { try writer?.freeze() }

    func settle() { writer?.store.settle() }

    func reclaim(_ runs: [HostRun], zeroed: Bool) { writer?.reclaim(runs, zeroed: zeroed) }

    func rest() throws(ImageError) { try writer?.rest() }

    func close() throws(ImageError) { try writer?.close() }
}
