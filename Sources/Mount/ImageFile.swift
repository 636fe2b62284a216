internal import CLinux
internal import Disk
internal import Formats
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// One image as a file of the mount: opened when the first reader comes, closed when it has been idle for a while.
final class ImageFile: FileContent {
    /// Where the image is, in the words of whoever lists it.
    enum Source: Sendable {
        /// The image that the user named: open from the start, for as long as the mount lives.
        case named(String)
        /// An image met in a directory.
        case found(HostPlace, Classifier)
    }

    /// What is known of the disk without opening it: its size, or why it has none.
    typealias Peek = Result<UInt64, ImageError>

    struct State {
        var source: Source
        var facts: HostFacts
        /// The permission bits that the directories leave through which a link leads to the image.
        var way: UInt32 = 0o777
        var peek: Peek
        var disk: Disk?
        var users = 0
        var idleSince: ContinuousClock.Instant?
        /// The files of the chain as they were when bytes were last read from them.
        var stamps: [FileStamp] = []
        /// How often the files of the chain were found changed.
        var generation: UInt64 = 0
        var allocated: UInt64?
        var fault: Fault?
        /// No commit by the keeper before this: the last one failed.
        var restsUntil: ContinuousClock.Instant?
    }

    /// Why the image could not be opened, and when that was found.
    struct Fault {
        var text: String
        var since: ContinuousClock.Instant
        /// The count of `MountContext.changes` then.
        var changes: UInt64
        /// Whether it lies in the files: a lock or a lack of memory passes.
        var isLasting: Bool

        /// The fault that `error` is, found now.
        init(_ error: ImageError, _ context: MountContext) {
            text = "\(error)"
            since = .now
            changes = context.changes.load(ordering: .relaxed)
            isLasting = error.kind != .busy && error.kind != .io
        }
    }

    let context: MountContext
    let timeout = 1.0
    let counters = AccessCounters()
    let writing = WriteState()
    let state: Mutex<State>
    /// Held by the one who opens the image. `state` is never held across a call to the host: whoever only asks for
    /// attributes does not wait for a slow one.
    let opening = Mutex<Void>(())
    private let told = Generation()
    /// What the log has been told about the disk.
    let notices = ImageNotices()

    /// How long an image of a directory stays open without a reader.
    static let grace = Duration.seconds(3)
    /// How long an image counts as broken before it is shown as if it could be opened again.
    private static let memory = Duration.seconds(60)
    /// How long the same reason is not repeated in the log.
    static let quiet = Duration.seconds(10)

    init(context: MountContext, source: Source, facts: HostFacts, peek: Peek, disk: Disk? = nil) {
        self.context = context
        var state = State(source: source, facts: facts, peek: peek, disk: disk)
        if case .found(let place, _) = source, let target = place.target { state.way = target.admitted }
        if let disk { state.stamps = (try? disk.stamps()) ?? [] }
        state.allocated = disk.flatMap { try? $0.allocatedBytes() }
        // The log has it already: whoever listed the directory said it.
        if case .failure(let error) = peek { state.fault = Fault(error, context) }
        self.state = Mutex(state)
    }

    func noticed(at place: HostPlace) {
        state.withLock { state in
            if case .found(_, let classifier) = state.source { state.source = .found(place, classifier) }
            // Stays when the image is met without the link: the directories that lead there are asked anyway.
            if let target = place.target { state.way = target.admitted }
        }
    }

    /// Looks at the host file again. One that has vanished stays what it was for as long as somebody has it open. Throws
    /// `.missing`.
    private func refresh() throws(ImageError) {
        switch state.withLock({ $0.source }) {
        case .named(let path):
            var facts = clinux_file_facts()
            guard clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 else { return }
            learn(HostFacts(facts), nil)
        case .found(let place, let classifier):
            let now: HostFacts?
            do throws(ImageError) { now = try place.facts() } catch { now = nil }
            let known = facts
            guard let now, now.identity == known.identity else {
                if state.withLock({ $0.users > 0 }) { return }
                throw ImageError(.missing, "the image is gone", errno: ESTALE)
            }
            guard now != known else { return }
            // Our own writes change the file; nobody else can change it now.
            if state.withLock({ $0.disk?.isWritable == true }) { return learn(now, nil) }
            guard case .image(let peek) = classifier.verdict(of: place, now) else {
                throw ImageError(.missing, "the file is no image any more", errno: ESTALE)
            }
            learn(now, peek)
        }
    }

    private func learn(_ now: HostFacts, _ peek: Peek?) {
        state.withLock { state in
            guard now != state.facts else { return }
            if now.stamp != state.facts.stamp { (state.allocated, state.fault) = (nil, nil) }
            state.facts = now
            if let peek { state.peek = peek }
            if case .failure(let error)? = peek { state.fault = Fault(error, context) }
        }
    }

    func attributes() throws(ImageError) -> FileAttributes {
        try refresh()
        countAllocated()
        return state.withLock { state in
            var result = context.fileAttributes(state.facts, isWritable: isWritable, way: state.way)
            switch state.peek {
            case .success(let size):
                result.size = size
                result.blockSize = state.disk?.blockSize ?? 65536
                result.blocks = Self.blocks(state)
            case .failure: result.mode = 0
            }
            // Writes through other files of the mount change them as well.
            if state.disk?.isWritable == true { result.lifetime = 1 }
            if isBroken(state) { (result.mode, result.lifetime) = (0, 1) }
            return result
        }
    }

    /// Whether the last attempt to open the image failed and nothing has happened since that could have mended it.
    private func isBroken(_ state: State) -> Bool {
        guard let fault = state.fault, fault.isLasting else { return false }
        return fault.changes == context.changes.load(ordering: .relaxed)
            && ContinuousClock.now - fault.since < Self.memory
    }

    /// Allocated space in units of 512 bytes: never 0 for a disk with bytes, which archivers would take for all zeros.
    private static func blocks(_ state: State) -> UInt64 {
        guard case .success(let size) = state.peek, size > 0 else { return 0 }
        return max(1, (state.allocated ?? state.facts.blocks &* 512) / 512)
    }

    /// The facts of the host file as last seen.
    var facts: HostFacts { state.withLock { $0.facts } }

    /// The permission bits that the directories leave through which a link leads to the image.
    var way: UInt32 { state.withLock { $0.way } }

    func open(_ mode: OpenMode) throws(ImageError) -> OpenFile {
        try context.admit(mode, name)
        let (disk, generation) = try acquire(writing: mode.isWriting)
        let isAside = disk.isWritable && mode.isWriting && mode.isDirect
        let role = OpenRole(
            image: self, start: 0, isWhole: true, isWriter: mode.isWriting, isAside: isAside, isParallel: isAside)
        var keepsCache = told.isKnown(generation)
        if disk.isWritable, !isAside, !writing.opensCached() { keepsCache = false }
        return OpenFile(disk: disk, role: role, keepsCache: keepsCache)
    }

    /// The open disk, held for one user until `release()`, and how often its content has changed. Every failure is an I/O
    /// error with a line in the log, whatever is wrong with the image; only one that is gone is `.missing`, and one that
    /// another program holds `.busy`. For `writing`
    /// the disk is writable, or this throws `.readOnly` or `.busy` where it cannot be.
    func acquire(writing: Bool = false) throws(ImageError) -> (disk: Disk, generation: UInt64) {
        do throws(ImageError) {
            try refresh()
            if writing { return try acquireForWriting() }
            return try opening.withLock { (_) throws(ImageError) in try current() }
        } catch {
            if writing { throw failedToWrite(error) }
            throw error.errno == ESTALE ? error : failed(error)
        }
    }

    /// Gives back what `acquire` gave. What a writer leaves uncommitted is committed soon.
    func release(wasWriter: Bool = false) {
        state.withLock { state in
            state.users -= 1
            if state.users == 0 { state.idleSince = .now }
        }
        guard wasWriter, isUncommitted else { return }
        self.writing.isReleased.store(true, ordering: .relaxed)
        context.keeper.wake()
    }

    /// Closes the image if nobody has used it for a while; one that is writable is the keeper's. Returns whether it is
    /// still open.
    func closeIfIdle(at now: ContinuousClock.Instant) -> Bool {
        let closed = state.withLock { (state) -> Disk? in
            guard case .found = state.source, state.users == 0, let since = state.idleSince,
                now - since >= Self.grace, let disk = state.disk, !disk.isWritable
            else { return nil }
            state.disk = nil
            // Under the lock: whoever opens it again counts it after this.
            context.closed(self)
            return disk
        }
        return closed == nil
    }

    /// What the status file says of an open image; nil when it is closed.
    func status() -> (disk: Disk, users: Int)? {
        state.withLock { state in state.disk.map { ($0, state.users) } }
    }

    /// Takes the disk that is open, if it still shows what the host files hold, or a newly opened one. Runs with
    /// `opening` held.
    private func current() throws(ImageError) -> (disk: Disk, generation: UInt64) {
        let known = state.withLock { $0 }
        // Nobody else can change what we may write.
        if let disk = known.disk, disk.isWritable { return (disk, take(disk, known.stamps)) }
        if let disk = known.disk {
            let stamps = try disk.stamps()
            if stamps == known.stamps { return (disk, take(disk, stamps)) }
            // With --force-share that is what images do.
            let level: Logger.Level = context.options.disk.sharing == .forced ? .debug : .warning
            context.log.log(
                level: level, "\(disk.name): the image has changed while it was open; it is opened again")
        }
        return try takeNew(try reopen(known, writing: false))
    }

    /// Makes a disk just opened the one that is open.
    func takeNew(_ disk: Disk) throws(ImageError) -> (disk: Disk, generation: UInt64) {
        let (stamps, allocated) = (try disk.stamps(), try disk.allocatedBytes())
        state.withLock { state in
            state.peek = .success(disk.size)
            state.allocated = allocated
        }
        tellOfSectors(disk)
        return (disk, take(disk, stamps))
    }

    /// Makes `disk` the open one with one more user. Returns how often the content has changed.
    func take(_ disk: Disk, _ stamps: [FileStamp]) -> UInt64 {
        // What it replaces ends outside the lock.
        let (generation, old) = state.withLock { (state) -> (UInt64, Disk?) in
            let old = state.disk
            if old !== disk {
                state.disk = disk
                context.opened(self)
            }
            if !state.stamps.isEmpty, state.stamps != stamps { state.generation += 1 }
            state.stamps = stamps
            state.users += 1
            state.idleSince = nil
            state.fault = nil
            return (state.generation, old)
        }
        withExtendedLifetime(old) {}
        context.broken.remove(facts.identity)
        return generation
    }

    /// Remembers why the image could not be opened, and says it in the log unless it has just been said. Returns what a
    /// reader sees.
    private func failed(_ error: ImageError) -> ImageError {
        let source = state.withLock { $0.source }
        let named = error.named(Self.text(source))
        let fault = Fault(named, context)
        let (isNews, key) = state.withLock { (state) -> (Bool, NodeKey) in
            let old = state.fault
            let isRepeated = old.map { $0.text == fault.text && fault.since - $0.since < Self.quiet } ?? false
            state.fault = fault
            if isRepeated, let old { state.fault?.since = old.since }
            return (!isRepeated, .host(state.facts.identity))
        }
        remember(named, source)
        if isNews {
            context.log.error("\(named)")
            if case .found = source { context.attributesChanged(key) }
        }
        // It is whole, and may be had later.
        if error.kind == .busy { return ImageError(.busy, "the image is in use", errno: EBUSY, detail: fault.text) }
        return ImageError(.io, "the image cannot be opened", errno: EIO, detail: fault.text)
    }

    /// Notes the image among the broken ones of the mount.
    private func remember(_ error: ImageError, _ source: Source) {
        let identity = facts.identity
        // One that is busy is whole.
        guard error.kind != .busy else { return }
        switch source {
        case .named(let path): context.broken.add(identity, path, error, at: nil)
        case .found(let place, _): context.broken.add(identity, place.text, error, at: place)
        }
    }

    /// The image in messages.
    var name: String { Self.text(state.withLock { $0.source }) }

    private static func text(_ source: Source) -> String {
        switch source {
        case .named(let path): path
        case .found(let place, _): place.text
        }
    }

    func reopen(_ state: State, writing: Bool) throws(ImageError) -> Disk {
        var options = context.options.disk
        options.isWritable = writing
        switch state.source {
        case .named(let path): return try Disk.open(path: path, options: options)
        case .found(let place, _):
            if case .failure(let error) = state.peek { throw error }
            return try Self.open(place, expecting: state.facts.identity, options)
        }
    }

    /// Opens the image at a place, which must still hold the file that the node stands for. It is looked up once: what is
    /// opened here is what is read, and written, whatever is at the path by then.
    private static func open(
        _ place: HostPlace, expecting identity: FileIdentity, _ options: DiskOptions
    ) throws(ImageError) -> Disk {
        let descriptor = try place.open((options.isWritable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY)
        defer { close(descriptor) }
        let facts = try HostPlace.facts(of: descriptor, place.text)
        guard facts.identity == identity else {
            throw ImageError(.missing, "another file has taken the image's place", errno: ESTALE, file: place.text)
        }
        var options = options
        // Who put the image there must not learn from its failure what lies beside it.
        options.tellsNames = false
        options.imageName = place.path
        options.formatOption = .member(called: place.path)
        options.found = DiskOptions.Found(descriptor: descriptor, directories: place.directories)
        let disk = try Disk.open(path: place.exactText ?? place.text, options: options)
        // Opening for writing may have repaired what a crash left.
        let isStable = options.isWritable || options.sharing == .forced
        let stamp = isStable ? facts.stamp : try disk.stamps().first
        guard stamp == facts.stamp else {
            throw ImageError(.busy, "the image changed while it was opened; try again", file: place.text)
        }
        return disk
    }
}
