internal import Bytes
package import Storage
internal import Synchronization

/// Troubles of a host that a test switches on and off for files, and that last until they are taken back.
package final class HostTrouble: Sendable {
    private let flags = Mutex((failsFlush: false, isFull: false, refusesHoles: false, limit: UInt64.max))
    private let begun = Atomic<Int>(0)

    /// A host without troubles.
    package init() {}

    /// Whether every flush fails with EIO.
    package var failsFlush: Bool {
        get { flags.withLock { $0.failsFlush } }
        set { flags.withLock { $0.failsFlush = newValue } }
    }

    /// Whether every write fails with ENOSPC.
    package var isFull: Bool {
        get { flags.withLock { $0.isFull } }
        set { flags.withLock { $0.isFull = newValue } }
    }

    /// Whether the host knows no holes.
    package var refusesHoles: Bool {
        get { flags.withLock { $0.refusesHoles } }
        set { flags.withLock { $0.refusesHoles = newValue } }
    }

    /// How large a file can become, in bytes: what reaches beyond fails with ENOSPC.
    package var limit: UInt64 {
        get { flags.withLock { $0.limit } }
        set { flags.withLock { $0.limit = newValue } }
    }

    /// How often the host was to begin writing out.
    package var startedWritebacks: Int { begun.load(ordering: .relaxed) }

    /// The same files with these troubles.
    package func over(_ storages: [any Storage]) -> [any Storage] {
        storages.map { TroubledStorage(storage: $0, trouble: self) }
    }

    fileprivate func noteWriteback() { begun.wrappingAdd(1, ordering: .relaxed) }

    fileprivate func checkRoom(to end: UInt64, writes: Bool) throws(ImageError) {
        let fails = flags.withLock { $0.isFull && writes || end > $0.limit }
        if fails { throw ImageError(.noSpace, "no room, as the test asked for") }
    }
}

/// A file with the troubles of its host.
private final class TroubledStorage: Storage {
    private let storage: any Storage
    private let trouble: HostTrouble

    private let hasRefusedHole = Atomic<Bool>(false)

    init(storage: any Storage, trouble: HostTrouble) {
        self.storage = storage
        self.trouble = trouble
    }

    var name: String { storage.name }

    var identity: FileIdentity? { storage.identity }

    var isWritable: Bool { storage.isWritable }

    var size: UInt64 { storage.size }

    func refresh() throws(ImageError) -> UInt64 { try storage.refresh() }

    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        try storage.read(at: offset, into: buffer)
    }

    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? {
        try storage.splice(from: offset, count: count, into: pipe)
    }

    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? { try storage.nextData(from: offset) }

    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset { try storage.nextHole(from: offset) }

    func allocatedBytes() throws(ImageError) -> UInt64 { try storage.allocatedBytes() }

    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        try trouble.checkRoom(to: offset.rawValue + UInt64(bytes.count), writes: true)
        try storage.write(at: offset, bytes)
    }

    func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        try trouble.checkRoom(to: offset.rawValue + count, writes: true)
        try storage.zero(at: offset, count: count)
    }

    var refusesHoles: Bool { hasRefusedHole.load(ordering: .relaxed) }

    func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        if trouble.refusesHoles {
            hasRefusedHole.store(true, ordering: .relaxed)
            return false
        }
        return try storage.punch(at: offset, count: count)
    }

    func resize(to size: UInt64) throws(ImageError) {
        try trouble.checkRoom(to: size, writes: size > storage.size)
        try storage.resize(to: size)
    }

    func flush() throws(ImageError) {
        if trouble.failsFlush { throw ImageError(.io, "a flush that fails, as the test asked for") }
        try storage.flush()
    }

    func startWriteback() {
        trouble.noteWriteback()
        storage.startWriteback()
    }

    func close() { storage.close() }
}
