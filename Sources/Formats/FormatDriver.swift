package import Bytes
package import Storage

/// A format: how an image is recognised and opened. One folder under `Formats` has one of these, and `Registry`
/// one line for it.
///
/// To add a format, write a folder with the same files as its neighbours, each with the format's name in front, since a
/// module cannot hold two files of one name: `…Header` for what is fixed at open, `…Table` for the lookup structures,
/// `…Map` for the driver and `map`, `…Parent` for the way to the parent, further ones for what only this format has. Add
/// the line, and run `checkFormatDriver` on it in the tests. Nothing outside the folder needs to change.
package protocol ImageFormat: Sendable {
    /// The name used by `-o format=`, in `info` and by images that record their parent's format; lower case.
    static var name: String { get }

    /// Further names under which images and users know the format ("vpc" for VHD).
    static var aliases: [String] { get }

    /// The name by which an image of the QEMU family records its parent's format: QEMU's own.
    static var recordedName: String { get }

    /// An identity of an image of this format (`DiskShape.identity`) as the format's own tools print it.
    static func text(of identity: GUID) -> String

    /// Whether the file is of this format, judged only by bytes that a guest cannot write (DESIGN.md, "Trust").
    /// Damage that `open` would explain is not this function's concern. Throws `.io`.
    static func recognises(_ storage: any Storage) throws(ImageError) -> Bool

    /// How files of this format are called: endings without the dot, in lower case. A file called so counts as an image
    /// also when it is damaged.
    static var nameEndings: [String] { get }

    /// What is wrong with a file that no format recognises: one that is called like an image of this format (`isNamed`), or
    /// in which enough of one is left to be sure. Nil where there is nothing of this format in it. Throws `.io`.
    static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError?

    /// The size of the virtual disk in bytes, from the headers alone: no table is read, nothing is kept. For listings.
    /// Throws what `open` would throw for a damaged header.
    static func virtualSize(of storage: any Storage, options: FormatOptions) throws(ImageError) -> UInt64

    /// Opens an image, for writing too where the request says so. Every field of the headers is checked here; tables are
    /// read later, as they are needed. A writable open may repair what a crash left (a dirty log, a dirty bit) and nothing
    /// else; it changes nothing where there is nothing to repair. Throws `.malformed`, `.unsupported`, `.corrupt`,
    /// `.denied`, `.readOnly` (a kind of image that is only read), `.noSpace` or `.io`.
    static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver

    /// Looks at everything in the image that can be wrong, and repairs what is safe to repair where `repairs` says so
    /// (the storage is then open for writing). Throws what prevents a check: `.malformed`, `.unsupported`, `.io`.
    static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport

    /// What `create` understands, for `--help` and for refusing what it does not.
    static var createOptions: [CreateOption] { get }

    /// Makes an empty image in the empty file of the request. Everything is written and flushed when this returns; the
    /// caller gives the file its name then. Throws `.outOfRange` for values and sizes that the format does not
    /// have and `.unsupported` for options that do not go together, `.noSpace`, `.io`.
    static func create(_ request: CreateRequest) throws(ImageError)
}

extension ImageFormat {
    package static var aliases: [String] { [] }

    package static var recordedName: String { name }

    package static func text(of identity: GUID) -> String { identity.plainText }

    package static var nameEndings: [String] { [] }

    package static func damage(
        _ start: FileStart, _ storage: any Storage, isNamed: Bool
    ) throws(ImageError) -> ImageError? { nil }

    package static var createOptions: [CreateOption] { [] }

    package static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        throw ImageError(.unsupported, "images of this format cannot be checked", detail: name)
    }

    package static func create(_ request: CreateRequest) throws(ImageError) {
        throw ImageError(.unsupported, "images of this format cannot be created", detail: name)
    }
}

/// What `ImageFormat.open` needs.
package struct OpenRequest: Sendable {
    /// The image file. Its owner closes it.
    package var storage: any Storage
    /// Opens further files that the image names, if the rules of trust allow it.
    package var companions: any CompanionOpener
    /// What the user chose.
    package var options: FormatOptions
    /// Whether the disk is to be written; the storage, and what `companions` opens, are then open for writing.
    package var isWritable: Bool

    /// Makes a request of its parts.
    package init(
        storage: any Storage, companions: any CompanionOpener, options: FormatOptions = FormatOptions(),
        isWritable: Bool = false
    ) {
        self.storage = storage
        self.companions = companions
        self.options = options
        self.isWritable = isWritable
    }
}

/// Opens what an image names besides its parent: an external data file. `Disk` implements it with its rules of trust.
package protocol CompanionOpener: Sendable {
    /// Opens the data file `name` as recorded in the image. Throws `.denied`, `.missing` or `.io`.
    func openDataFile(_ name: String) throws(ImageError) -> any Storage
}

/// Choices of the user that a format understands.
package struct FormatOptions: Sendable {
    /// Which of a VHD's two sizes counts (VHD specification, "Disk Geometry" against "Current Size").
    package enum VHDSize: String, Sendable {
        /// The footer's current size.
        case current
        /// Cylinders × heads × sectors, as Virtual PC did.
        case chs
    }

    /// What the sector bitmaps of a dynamic VHD mean to a reader. In a differencing VHD they always choose between the
    /// image and its parent.
    package enum VHDBitmap: String, CaseIterable, Sendable {
        /// A clear bit is a sector of zeros, whatever the block holds there (VHD specification, "Data Blocks").
        case honour
        /// A block that the image holds is data from end to end, as Windows and QEMU read it.
        case ignore
    }

    /// Which size of a VHD counts.
    package var vhdSize: VHDSize
    /// What the sector bitmaps of a dynamic VHD mean.
    package var vhdBitmap: VHDBitmap
    /// The limit on cached metadata of one image, in bytes; at least 256 KiB is used.
    package var cacheBytes: Int

    /// Makes options; the defaults are those of the command line.
    package init(vhdSize: VHDSize = .current, vhdBitmap: VHDBitmap = .honour, cacheBytes: Int = 32 << 20) {
        self.vhdSize = vhdSize
        self.vhdBitmap = vhdBitmap
        self.cacheBytes = cacheBytes
    }
}

/// One open image of any format: a metadata engine that answers *where* and never carries the bytes.
///
/// `Disk` reads, writes, orders and waits; a driver does no I/O of its own in a commit. Every method may be called
/// from many threads at once unless it says otherwise.
package protocol FormatDriver: AnyObject, Sendable {
    /// Sizes and identity; constant.
    var shape: DiskShape { get }

    /// The files that extents lie in, indexed by `FileSlot`; constant. Slot 0 is the image itself.
    var files: [any Storage] { get }

    /// The image that answers for holes, or nil; constant. `Disk` opens and verifies it.
    var parent: ParentReference? { get }

    /// What decodes `.encoded` runs; nil where the image has none. Constant.
    var decoder: (any BlockDecoder)? { get }

    /// The disks inside the image besides the active one, in the order of the image's own list.
    var snapshots: [SnapshotInfo] { get }

    /// Opens the snapshot at `index` of `snapshots` as a disk of its own, for reading, on the same files, parent and
    /// decoder. Throws like `ImageFormat.open`.
    func openSnapshot(_ index: Int) throws(ImageError) -> any FormatDriver

    /// Says where `runs.range` is, in this layer alone.
    ///
    /// The range lies within the disk. The runs ascend without a gap from its start; at least one is added; the answer
    /// may stop early, when the list is full or the walk has become long, and is then asked for again. Never reads guest
    /// data, never holds a lock when it returns, and gives no `.data` outside its file. The answer for one allocation
    /// unit is one consistent snapshot.
    ///
    /// `.placement` is for moving bytes: what is simply not known to be a hole may be given as `.data`. `.allocation` is
    /// for SEEK_HOLE and `platter map`: where only the host file knows (raw and fixed images) it is asked.
    ///
    /// Throws `.corrupt` when the first unit of the range has impossible metadata, with the offset of the entry; damage
    /// further on only ends the answer early. Throws `.io`.
    func map(_ detail: MapDetail, into runs: inout ExtentList) throws(ImageError)

    // MARK: - Writing

    /// Makes the image ready for the first change of a session: what announces a change (a new DataWriteGuid, cleared
    /// autoclear bits, the dirty bit) is durable when this returns. Called once, before every other call below. Does its
    /// own I/O. Throws `.readOnly`, `.corrupt`, `.noSpace` or `.io`; nothing may be written then, and it may be called
    /// again.
    func prepare() throws(ImageError)

    /// Adds the runs of the longest prefix of the range that may be written where it is, no metadata changing: bytes that
    /// belong to this layer alone and that nothing else shares. Adds nothing where the first byte is not such a one. Free
    /// of locks like `map`, and asked before every write. Throws `.corrupt` and `.io`.
    func inPlace(_ runs: inout ExtentList) throws(ImageError)

    /// Finds host space for a write and says what must be filled around it.
    ///
    /// Nothing that a reader can see changes. The plan may cover a prefix of the range. No other plan or release is under
    /// way in the allocation units of the range (`Disk` sees to that), though writes in place may be. A part of the range
    /// that needs nothing may be part of the plan. Every plan is published or cancelled. May do I/O of its own where the
    /// format needs it (growth of a VHD). Throws `.readOnly`, `.noSpace`, `.corrupt` or `.io`.
    func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan

    /// Makes a plan's bytes visible in one step, after `Disk` has written them and filled what the plan said. What the
    /// metadata no longer points to is added to `freed`. Throws `.corrupt` and `.io`; the plan is then cancelled.
    func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError)

    /// Gives a plan back unused, whose space may have been written; at worst it is lost until a check. Never fails.
    func cancel(_ plan: consuming WritePlan, freed: inout [HostRun])

    /// Does by metadata alone what it can of making `range` read as `release` says, and returns the part it handled (a
    /// prefix or an inner part, whole allocation units or subclusters; maybe empty, at `range.lower`). `Disk` writes zeros
    /// for the rest before and behind it. No other plan or release is under way in the units of the range. A part that
    /// reads so already (a hole without a parent) counts as handled. Throws `.readOnly`, `.noSpace`, `.corrupt`, `.io`.
    func release(_ range: ByteRange, as release: Release, freed: inout [HostRun]) throws(ImageError) -> ByteRange

    /// Whether so much metadata has gathered that it should be committed before the next plan. Cheap.
    var wantsCommit: Bool { get }

    /// Takes immutable images of all metadata changed since the last batch, in phases, or nil when nothing changed.
    /// What is published or released later belongs to the next batch. No I/O that changes a file. Called by one thread at
    /// a time, and not again before `settle`.
    func freeze() throws(ImageError) -> Batch?

    /// Says that all phases of the last batch have been written, each with the barrier that it asked for.
    func settle()

    /// Takes back space that was freed: the batch that dropped it is durable, every lease from before has ended, and
    /// `zeroed` says whether the host range has been punched. Only now may `reserve` give it out again.
    func reclaim(_ runs: [HostRun], zeroed: Bool)

    /// Half a minute has gone by without a change and everything is committed: a good time to empty a log. Called by the
    /// thread that commits; plans may be made meanwhile. Does its own I/O. Throws `.noSpace` and `.io`.
    func rest() throws(ImageError)

    /// Ends a writable session after its last batch, which is durable: clean marks, and unused space at the end of the
    /// file. Nothing is called afterwards. Does its own I/O. Throws `.noSpace` and `.io`.
    func close() throws(ImageError)
}

/// How exact the answer of `map` has to be.
package enum MapDetail: Sendable {
    /// For moving bytes: `.data` where that is quicker than asking the host for holes.
    case placement
    /// For SEEK_HOLE, `platter map` and copies of sparse disks.
    case allocation
}

/// What an image that is open for reading answers. A driver that writes replaces all of these.
extension FormatDriver {
    package var snapshots: [SnapshotInfo] { [] }

    package var decoder: (any BlockDecoder)? { nil }

    package func openSnapshot(_ index: Int) throws(ImageError) -> any FormatDriver {
        throw ImageError(.outOfRange, "the image has no such snapshot")
    }

    package func prepare() throws(ImageError) { throw .openForReading }

    package func inPlace(_ runs: inout ExtentList) throws(ImageError) {}

    package func reserve(_ range: ByteRange) throws(ImageError) -> WritePlan { throw .openForReading }

    package func publish(_ plan: consuming WritePlan, freed: inout [HostRun]) throws(ImageError) {
        throw .openForReading
    }

    package func cancel(_ plan: consuming WritePlan, freed: inout [HostRun]) {}

    package func release(
        _ range: ByteRange, as release: Release, freed: inout [HostRun]
    ) throws(ImageError) -> ByteRange { throw .openForReading }

    package var wantsCommit: Bool { false }

    package func freeze() throws(ImageError) -> Batch? { nil }

    package func settle() {}

    package func reclaim(_ runs: [HostRun], zeroed: Bool) {}

    package func rest() throws(ImageError) {}

    package func close() throws(ImageError) {}
}

extension ImageError {
    /// What every writing call of a driver answers while its image is open for reading.
    package static var openForReading: ImageError { ImageError(.readOnly, "the image is open for reading only") }
}
