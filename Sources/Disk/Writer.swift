internal import Bytes
internal import Formats
internal import Logging
internal import Storage
internal import Synchronization

/// What writes into the topmost image of a chain: one for the whole disk and all its partitions.
///
/// A write takes a lease, asks the driver which bytes may be written where they are, and writes those under no lock. For
/// the rest it goes through the gate of the allocation units, takes a plan, writes bytes and fills, and publishes. What
/// that changes of the metadata stays in memory until a commit.
final class Writer: Sendable {
    /// How far a session is.
    enum Stage: UInt8, AtomicRepresentable {
        /// Nothing has been changed.
        case unprepared
        /// Writes are taken.
        case open
        /// The last commit is under way.
        case finishing
        /// It is over.
        case finished
    }

    let driver: any FormatDriver
    let files: [any Storage]
    /// The layers as reads go through them, for fills.
    let top: Level
    let decoded: DecodeCache
    let name: String
    let log: Logger
    /// Where commits that find no room are reported: a program may ask for one many times a second.
    let reporter: FailureReporter
    /// Whether the log knows that the host punches no holes.
    let hasReportedHoles = Atomic<Bool>(false)

    let leases = Leases()
    let gate: RangeGate
    let stage = Atomic<Stage>(.unprepared)
    /// Nothing is written any more: it is not known what reached the disk.
    let isPoisoned = Atomic<Bool>(false)
    /// How many writes there have been; counted when their bytes are with the host and before they are acknowledged.
    let changes = Atomic<UInt64>(0)
    /// How many bytes of the guest those had, about: only housekeeping asks.
    let written = Atomic<UInt64>(0)
    /// Whether the host is being asked to write out.
    let isWritingBack = Atomic<Bool>(false)
    /// The part of `changes` that survives a power loss.
    let durable = Atomic<UInt64>(0)
    let commits = Monitor(Commits())
    /// A batch that found no room; for whoever commits.
    let kept = Mutex<KeptBatch?>(nil)
    let dropped = Mutex(DroppedSpace())
    /// How often space has been given back.
    let givenBack = Atomic<UInt64>(0)
    /// Held while space is given back.
    let reclaiming = Mutex(())
    let idle: Mutex<Idleness>

    /// The only one of `files` that most images have: an array retains what it hands out.
    private let image: any Storage
    private let preparing = Monitor(false)

    init(driver: any FormatDriver, top: Level, decoded: DecodeCache, name: String, log: Logger) {
        self.driver = driver
        self.top = top
        self.decoded = decoded
        self.name = name
        self.log = log
        reporter = FailureReporter(log, plenty: 1)
        files = driver.files
        image = files[0]
        gate = RangeGate(unit: driver.shape.allocationUnit)
        idle = Mutex(Idleness())
    }

    // MARK: - Admission

    /// Lets a change in: readies the image before the first one. Called holding nothing. Throws `.io` on a poisoned image,
    /// `.readOnly` after the end, and what `FormatDriver.prepare` throws.
    func admit() throws(ImageError) {
        if stage.load(ordering: .acquiring) == .unprepared { try prepare() }
    }

    /// Begins a lease for a change. The session cannot end, and space that is dropped from now on cannot be given out, until
    /// it has ended. Throws `.io` and `.readOnly`.
    func begin() throws(ImageError) -> Lease {
        let lease = leases.begin()
        // Looked at after the lease has begun: whoever ends the session changes the stage first and then waits for leases.
        do throws(ImageError) { try checkStage() } catch {
            leases.end(lease)
            throw error
        }
        return lease
    }

    private func checkStage() throws(ImageError) {
        guard !isPoisoned.load(ordering: .relaxed) else { throw .poisoned }
        guard stage.load(ordering: .sequentiallyConsistent) == .open else {
            throw ImageError(.readOnly, "the disk is not written any more")
        }
    }

    private func prepare() throws(ImageError) {
        guard !isPoisoned.load(ordering: .relaxed) else { throw .poisoned }
        try withStage { (stage) throws(ImageError) in
            guard stage.load(ordering: .acquiring) == .unprepared else { return }
            do throws(ImageError) { try driver.prepare() } catch {
                noteFailure(error)
                throw error
            }
            stage.store(.open, ordering: .sequentiallyConsistent)
        }
    }

    /// Runs `body`, which may change the stage, while nobody else does.
    func withStage(_ body: (borrowing Atomic<Stage>) throws(ImageError) -> Void) throws(ImageError) {
        _ = preparing.wait { isTaken -> Bool? in
            guard !isTaken else { return nil }
            isTaken = true
            return true
        }
        defer {
            preparing.change { isTaken in
                isTaken = false
                return true
            }
        }
        try body(stage)
    }

    /// After this nothing more is written: a write of metadata or a barrier failed, and it is not known what of it arrived.
    func poison(_ error: ImageError) {
        guard !isPoisoned.exchange(true, ordering: .sequentiallyConsistent) else { return }
        log.error(
            """
            \(name): nothing more is written until the image is opened again, and what was written last may be lost: \
            \(error)
            """)
    }

    /// Poisons after a failure of a driver that writes and flushes on its own, unless the host is only full: a barrier that
    /// has failed once succeeds when it is asked for again, whatever was lost.
    func noteFailure(_ error: ImageError) {
        if error.kind == .io { poison(error) }
    }

    // MARK: - Bytes

    /// The file of a slot.
    func file(_ slot: FileSlot) -> any Storage {
        slot.rawValue == 0 ? image : files[Int(slot.rawValue)]
    }

    /// Notes that so many bytes of the guest have been written.
    func noteChange(_ bytes: UInt64 = 0) {
        written.wrappingAdd(bytes, ordering: .relaxed)
        changes.wrappingAdd(1, ordering: .releasing)
    }

    /// Whether the end of what was written is not known to survive a power loss.
    var hasUncommittedChanges: Bool {
        changes.load(ordering: .acquiring) != durable.load(ordering: .acquiring)
    }
}

extension ImageError {
    /// What every change of a poisoned image answers.
    static var poisoned: ImageError {
        ImageError(.io, "an earlier failure left it unknown what was saved; open the image again to write")
    }
}
