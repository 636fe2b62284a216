internal import CLinux
internal import Disk
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

    private struct State {
        var source: Source
        var facts: HostFacts
        var peek: Peek
        var disk: Disk?
        var users = 0
        var idleSince: ContinuousClock.Instant?
        /// The files of the chain as they were when bytes were last read from them.
        var stamps: [FileStamp] = []
        var allocated: UInt64?
    }

    let context: MountContext
    let timeout: Double
    let counters = ReadCounters()
    private let state: Mutex<State>

    /// How long an image of a directory stays open without a reader.
    private static let grace = Duration.seconds(3)

    init(
        context: MountContext, source: Source, facts: HostFacts, peek: Peek, disk: Disk? = nil, timeout: Double
    ) {
        self.context = context
        self.timeout = timeout
        var state = State(source: source, facts: facts, peek: peek, disk: disk)
        if let disk { state.stamps = (try? disk.stamps()) ?? [] }
        state.allocated = disk.flatMap { try? $0.allocatedBytes() }
        self.state = Mutex(state)
    }

    func noticed(at place: HostPlace) {
        state.withLock { state in
            if case .found(_, let classifier) = state.source { state.source = .found(place, classifier) }
        }
    }

    /// Looks at the host file again. One that has vanished stays what it was for as long as somebody has it open. Throws
    /// `.missing`.
    private func refresh() throws(ImageError) {
        guard case .found(let place, let classifier) = state.withLock({ $0.source }) else { return }
        let now: HostFacts?
        do throws(ImageError) { now = try place.facts() } catch { now = nil }
        let known = facts
        guard let now, now.identity == known.identity else {
            if state.withLock({ $0.users > 0 }) { return }
            throw ImageError(.missing, "the image is gone", errno: ESTALE)
        }
        guard now != known else { return }
        guard case .image(let peek) = classifier.verdict(of: place, now) else {
            throw ImageError(.missing, "the file is no image any more", errno: ESTALE)
        }
        state.withLock { state in
            if now.stamp != state.facts.stamp { state.allocated = nil }
            state.facts = now
            state.peek = peek
        }
    }

    func attributes() throws(ImageError) -> FileAttributes {
        try refresh()
        return state.withLock { state in
            var result = context.fileAttributes(state.facts)
            switch state.peek {
            case .success(let size):
                result.size = size
                result.blockSize = state.disk?.blockSize ?? 65536
                result.blocks = Self.blocks(state)
            case .failure: result.mode = 0
            }
            return result
        }
    }

    /// Allocated space in units of 512 bytes: never 0 for a disk with bytes, which archivers would take for all zeros.
    private static func blocks(_ state: State) -> UInt64 {
        guard case .success(let size) = state.peek, size > 0 else { return 0 }
        return max(1, (state.allocated ?? state.facts.blocks &* 512) / 512)
    }

    /// The facts of the host file as last seen.
    var facts: HostFacts { state.withLock { $0.facts } }

    func open() throws(ImageError) -> OpenFile {
        let (disk, keepsCache) = try acquire()
        return OpenFile(disk: disk, keepsCache: keepsCache, counters: counters) { [self] in release() }
    }

    /// The open disk, held for one user until `release()`, and whether the kernel's cache is still true. Throws what
    /// opening the image throws.
    func acquire() throws(ImageError) -> (disk: Disk, keepsCache: Bool) {
        try refresh()
        let result = state.withLock { (state) -> Result<(Disk, Bool), ImageError> in
            do throws(ImageError) {
                let known = state.stamps
                let disk = try current(&state)
                state.users += 1
                state.idleSince = nil
                return .success((disk, known.isEmpty || known == state.stamps))
            } catch { return .failure(error) }
        }
        switch result {
        case .success(let (disk, keepsCache)): return (disk, keepsCache)
        case .failure(let error):
            context.log.error("\(error)")
            throw error
        }
    }

    /// Gives back what `acquire` gave.
    func release() {
        state.withLock { state in
            state.users -= 1
            if state.users == 0 { state.idleSince = .now }
        }
    }

    /// Closes the image if nobody has used it for a while. Returns whether it is still open.
    func closeIfIdle(at now: ContinuousClock.Instant) -> Bool {
        let closed = state.withLock { (state) -> Disk? in
            guard case .found = state.source, state.users == 0, let since = state.idleSince,
                now - since >= Self.grace, let disk = state.disk
            else { return nil }
            state.disk = nil
            return disk
        }
        guard closed != nil else { return true }
        context.closed(self)
        return false
    }

    /// What the status file says of an open image; nil when it is closed.
    func status() -> (disk: Disk, users: Int)? {
        state.withLock { state in state.disk.map { ($0, state.users) } }
    }

    /// The disk that is open, if it still shows what the host files hold, or a newly opened one.
    private func current(_ state: inout State) throws(ImageError) -> Disk {
        if let disk = state.disk {
            let stamps = try disk.stamps()
            if stamps == state.stamps { return disk }
            context.log.warning("\(disk.name): the image has changed while it was open; it is opened again")
        }
        let disk = try reopen(state)
        state.stamps = try disk.stamps()
        state.disk = disk
        state.peek = .success(disk.size)
        state.allocated = try disk.allocatedBytes()
        context.opened(self)
        return disk
    }

    private func reopen(_ state: State) throws(ImageError) -> Disk {
        switch state.source {
        case .named(let path): return try Disk.open(path: path, options: context.options.disk)
        case .found(let place, _):
            if case .failure(let error) = state.peek { throw error }
            return try Self.open(place, expecting: state.facts.identity, context)
        }
    }

    /// Opens the image at a place, which must still hold the file that the node stands for. A name that no Swift string
    /// can carry is opened through the descriptor; such an image finds no parent by a relative path.
    private static func open(
        _ place: HostPlace, expecting identity: FileIdentity, _ context: MountContext
    ) throws(ImageError) -> Disk {
        let descriptor = try place.open(clinux_path_only)
        defer { close(descriptor) }
        let facts = try HostPlace.facts(of: descriptor, place.text)
        guard facts.identity == identity else {
            throw ImageError(.missing, "another file has taken the image's place", errno: ESTALE, file: place.text)
        }
        var options = context.options.disk
        if place.exactText == nil, options.format == nil, ExposedName.isRaw(place.path) { options.format = "raw" }
        let disk = try Disk.open(path: place.exactText ?? "/proc/self/fd/\(descriptor)", options: options)
        guard try disk.stamps().first == facts.stamp else {
            throw ImageError(.busy, "the image changed while it was opened; try again", file: place.text)
        }
        return disk
    }
}

/// How much was read through one file of the mount.
final class ReadCounters: Sendable {
    let reads = Atomic<UInt64>(0)
    let bytes = Atomic<UInt64>(0)
    let errors = Atomic<UInt64>(0)
}
