internal import Bytes
internal import Storage
internal import Synchronization

/// What a sparse image that is open for writing has besides what reading needs.
final class VHDSession: Sendable {
    let storage: any Storage
    /// The image's tables and bitmaps as they are with every change so far.
    let store: MetadataStore
    /// The footer, byte for byte: what goes to the new end of the file when that moves.
    let footer: [UInt8]
    let batmap: VHDBatmap?
    /// All metadata that the image has outside its blocks.
    let parts: [VHDMetadataPart]
    /// Whether the file has no good footer at its end yet.
    let isFooterMissing: Atomic<Bool>
    /// Who has which space. Held while the file grows; never by readers.
    let space: Mutex<VHDSpace>
    /// Set when a barrier failed: what was written before it may be lost, and nothing may claim otherwise.
    private let isPoisoned = Atomic<Bool>(false)
    /// As much changed metadata as this is reason enough for a commit, in bytes.
    let dirtyLimit: Int

    init(
        _ storage: any Storage, store: MetadataStore, footers: VHDFooters, batmap: VHDBatmap?,
        parts: [VHDMetadataPart], space: VHDSpace, cacheBytes: Int
    ) {
        self.storage = storage
        self.store = store
        footer = footers.footer.bytes
        self.batmap = batmap
        self.parts = parts
        isFooterMissing = Atomic(footers.place != .end)
        self.space = Mutex(space)
        dirtyLimit = max(64 << 10, min(cacheBytes, 8 << 20) / 16)
    }

    /// Ends all writing after a failure that leaves unknown what has reached the disk.
    func poison() { isPoisoned.store(true, ordering: .releasing) }

    /// Throws `.io` once a barrier has failed.
    func checkHealth() throws(ImageError) {
        guard !isPoisoned.load(ordering: .acquiring) else {
            throw ImageError(
                .io, "an earlier failure leaves unknown what has reached the disk; open the image again to write")
        }
    }

    /// Moves the end of the data to byte `position`, at or after the last byte in use and before or after the present
    /// end, and cuts the file after the footer there.
    ///
    /// The footer is durable in its new place before the file is cut, which takes the old one away; the cut is durable
    /// before anything is put behind it, or a file that grows again would show what had been cut off. Throws
    /// `.unsupported` where the file cannot be cut, `.noSpace` and `.io`.
    static func moveFooter(
        _ footer: [UInt8], to position: UInt64, in storage: any Storage
    ) throws(ImageError) {
        try storage.write(at: HostOffset(position), footer)
        try storage.flush()
        let size = position + UInt64(footer.count)
        guard storage.size != size else { return }
        try storage.resize(to: size)
        try storage.flush()
        guard try storage.refresh() == size else {
            throw ImageError(.unsupported, "the footer must be at the end, and this is a device, which cannot be cut")
        }
    }
}
