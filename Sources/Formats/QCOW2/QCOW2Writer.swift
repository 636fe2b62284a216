internal import Bytes
internal import Storage
internal import Synchronization

extension QCOW2 {
    /// Whether impossible metadata was met while the image was written; asked without a lock.
    final class Health: Sendable {
        private let corrupt = Atomic<Bool>(false)

        /// Whether nothing may be changed any more.
        var isCorrupt: Bool { corrupt.load(ordering: .relaxed) }

        /// Notes that nothing may be changed any more.
        func noteCorruption() { corrupt.store(true, ordering: .relaxed) }

        /// Throws `.corrupt` where nothing may be changed any more; not `.io`, after which what was changed before would not
        /// be written out.
        func check() throws(ImageError) {
            guard isCorrupt else { return }
            throw ImageError(.corrupt, "the image was found corrupt and is not written any more; check it")
        }
    }

    /// What a writable image has besides a readable one: the state that changes, behind one lock, and what is asked
    /// without it.
    final class Writer: Sendable {
        /// Everything that changes.
        let state: Mutex<WriteState>
        /// What says without a lock that a cluster holds no metadata.
        let filter: RegionFilter
        /// The metadata, for `dirtyBytes`.
        let store: MetadataStore
        /// Whether anything may be changed.
        let health = Health()
        /// With more changed metadata than this in bytes a commit is due.
        let dirtyLimit: Int

        /// The writer of `image`, whose active disk `tables` describes.
        init(_ image: OpenImage, _ tables: Tables, store: MetadataStore, fixed: [HostRun], cacheBytes: Int) {
            let filter = RegionFilter(expected: tables.virtualSize >> tables.tableBits)
            self.filter = filter
            self.store = store
            dirtyLimit = max(cacheBytes / 4, 256 << 10)
            state = Mutex(WriteState(image, tables, store: store, filter: filter, health: health, fixed: fixed))
        }
    }

    /// The state of a writable session. One thread at a time is in here: the writer's lock sees to that.
    final class WriteState {
        let header: Header
        let tables: Tables
        let rules: EntryRules
        let store: MetadataStore
        let imageFile: any Storage
        let dataFile: any Storage
        let dataSlot: FileSlot
        let hasParent: Bool
        /// Tables of fixed place that no guest byte may go to: the bitmap directory, the snapshots' tables.
        let fixed: [HostRun]

        /// Whether `prepare` has been through.
        var isReady = false
        /// Whether impossible metadata was met: nothing is changed any more.
        let health: Health
        /// The first sector of the file, as it is on disk or in the batch under way.
        var headerSector: [UInt8] = []
        /// The size of the file when the session began.
        var firstSize: UInt64 = 0

        /// The refcount table: the offsets of the refcount blocks, 0 for none.
        var blocks: [UInt64] = []
        /// Where the refcount table lies.
        var tableOffset: UInt64 = 0
        /// The sectors of the refcount table with entries that are in no batch yet.
        var dirtyTableSectors: Set<Int> = []
        /// Whether the table is a new one that the header does not name yet, nor a batch will.
        var switchesTable = false
        /// Whether the batch under way has the header in it.
        var isSwitchFrozen = false
        /// Whether the corrupt bit waits for that batch.
        var marksCorruptLater = false

        /// Whether `survey` has been through, or what it found that forbids any change.
        var survey: Result<Void, ImageError>?
        /// Whether clusters below the end of the file may be given out: not where nobody could count what is in use.
        var reusesSpace = true
        /// Clusters from 1 up to here are in use, as far as is known.
        var cursor: UInt64 = 1
        /// From here on nothing was ever given out in this session; at or behind the end that the file had.
        var fresh: UInt64 = 0
        /// The clusters of metadata.
        var regions: Regions
        /// References that were dropped and are still counted, by cluster.
        var dropped: [UInt64: UInt64] = [:]
        /// Clusters that lost a reference and keep others, to be counted when the batch that gathers is durable.
        var lowered: [UInt64] = []
        /// The same for the batch under way.
        var frozenLowered: [UInt64] = []
        /// Runs of old refcount tables, for the next batch to free.
        var freedTables: [HostRun] = []
        /// The plans under way by their token.
        var plans: [UInt64: PlanRecord] = [:]
        var nextToken: UInt64 = 1

        init(
            _ image: OpenImage, _ tables: Tables, store: MetadataStore, filter: RegionFilter, health: Health,
            fixed: [HostRun]
        ) {
            header = image.header
            self.health = health
            self.tables = tables
            rules = EntryRules(image.header)
            self.store = store
            imageFile = image.files[0]
            dataFile = image.files[Int(image.dataSlot.rawValue)]
            dataSlot = image.dataSlot
            hasParent = image.parent != nil
            self.fixed = fixed
            regions = Regions(filter: filter)
        }
    }
}

extension QCOW2.WriteState {
    /// The cluster size is 2 to this power.
    var clusterBits: UInt64 { tables.clusterBits }
    /// The bytes of a cluster.
    var clusterSize: UInt64 { tables.clusterSize }
    /// Whether the guest's clusters are in a file of their own.
    var hasDataFile: Bool { rules.hasDataFile }
    /// Whether refcounts need no order, since the dirty bit says that they may be wrong.
    var isLazy: Bool { header.version >= 3 && header.compatible & 1 == 1 }

    /// Throws unless the session may change the image.
    func checkUsable() throws(ImageError) {
        guard isReady else { throw ImageError(.readOnly, "the image was not made ready for writing") }
        try health.check()
        try surveyOnce()
    }

    /// `count` bytes of metadata from `offset` on; `count` is bounded by the caller.
    func bytes(at offset: UInt64, count: Int) throws(ImageError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        var failure: ImageError?
        result.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { try store.read(at: HostOffset(offset), into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return result
    }

    /// The big-endian word at `offset`.
    func word(at offset: UInt64) throws(ImageError) -> UInt64 {
        var raw: UInt64 = 0
        var failure: ImageError?
        withUnsafeMutableBytes(of: &raw) { buffer in
            do throws(ImageError) { try store.read(at: HostOffset(offset), into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return UInt64(bigEndian: raw)
    }

    /// Puts the bytes of big-endian words after each other.
    static func bytes(of words: some Sequence<UInt64>) -> [UInt8] {
        var result: [UInt8] = []
        for word in words {
            for shift: UInt64 in [56, 48, 40, 32, 24, 16, 8, 0] {
                result.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        return result
    }

    /// The run of `count` clusters of the image file from `cluster` on.
    func run(_ cluster: UInt64, count: UInt64) -> HostRun {
        HostRun(file: .image, offset: HostOffset(cluster << clusterBits), length: count << clusterBits)
    }
}
