internal import CLinux
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// What everything in one mount shares: the user's choices, the log, and the images that are open.
final class MountContext: Sendable {
    let options: MountOptions
    let log: Logger
    /// When the mount began, in nanoseconds since 1970.
    let began = Int64(time(nil)) * 1_000_000_000
    /// Names and attributes that may have to be dropped from the kernel's caches.
    let invalidations = InvalidationQueue()
    /// Called when an image has been opened.
    let onOpened = Mutex<(@Sendable () -> Void)?>(nil)
    /// Counts what happened to names and attributes in the source: an image that was broken may be whole again.
    let changes = Atomic<UInt64>(0)
    /// Whether users other than the one who mounts may come.
    let isShared = Atomic<Bool>(false)
    /// Changes that pass by the page cache.
    let aside = JobQueue()
    /// What the host is to write out.
    let writeback = JobQueue()
    /// The images that cannot be opened.
    let broken = BrokenImages()
    /// What commits while nobody asks.
    let keeper: Keeper
    /// The permission bits that the way to the source leaves.
    private let admitted: UInt32
    private let openImages: OpenImages
    private let table = Mutex(WeakTable())

    private struct WeakTable {
        weak var table: NodeTable?
    }

    init(_ options: MountOptions) {
        self.options = options
        log = options.log
        admitted = Self.admitted(options.source)
        let images = OpenImages()
        openImages = images
        keeper = Keeper(options) { images.all() }
    }

    /// The permissions that are left to the group and to others when only those of the directories count that lead to the
    /// source: none where one of them keeps people out.
    private static func admitted(_ source: String) -> UInt32 {
        guard let resolved = realpath(source, nil) else { return 0o700 }
        defer { free(resolved) }
        return admitted(to: Array(String(cString: resolved).utf8))
    }

    /// The same for an absolute path without links, as bytes.
    static func admitted(to path: [UInt8]) -> UInt32 {
        let slash = UInt8(ascii: "/")
        var path = path[...]
        var left: UInt32 = 0o777
        while let last = path.lastIndex(of: slash), path != [slash] {
            path = last == path.startIndex ? [slash] : path[..<last]
            var facts = clinux_file_facts()
            let code = (path + [0]).withUnsafeBytes { bytes in
                clinux_facts_at(AT_FDCWD, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), 1, &facts)
            }
            guard code == 0 else { return 0o700 }
            if facts.mode & 0o001 == 0 { left &= facts.mode & 0o010 == 0 ? 0o700 : 0o770 }
        }
        return left
    }

    /// Refuses an open that this mount does not allow at all. Throws `.readOnly` (EROFS), and EPERM for O_TRUNC: nothing
    /// can be cut off a disk, and a program that believes it empty leaves out what it takes for zeros.
    func admit(_ mode: OpenMode, _ name: @autoclosure () -> String) throws(ImageError) {
        guard mode.isWriting else { return }
        guard options.isWritable else { throw .mountedForReading }
        guard mode.truncates, !options.truncationDiscards else { return }
        log.notice(
            "\(name()): refused to empty the disk; write with conv=notrunc (dd) or -n (qemu-img convert), or mount with -o truncate=discard"
        )
        throw ImageError(.denied, "a disk cannot be emptied by opening it", errno: EPERM)
    }

    /// Learns where the nodes of the mount are.
    func serves(_ table: NodeTable) { self.table.withLock { $0.table = table } }

    /// Something has happened in the source.
    func noticeChange() { changes.add(1, ordering: .relaxed) }

    /// Lets the kernel ask anew for the attributes of the node with `key`.
    func attributesChanged(_ key: NodeKey) {
        guard let id = number(of: key) else { return }
        invalidations.push([.node(id)])
    }

    /// The number of the node with `key`; the disk of image mode may be the mountpoint itself.
    func number(of key: NodeKey) -> UInt64? {
        guard let table = table.withLock({ $0.table }) else { return nil }
        if key == .image, case .file = table.root.content { return 1 }
        return table.number(of: key)
    }

    /// The first failure of the end of a writable session, which becomes that of the mount.
    let badEnd = Mutex<ImageError?>(nil)

    /// Remembers that the end of a writable session failed.
    func endedBadly(_ error: ImageError) { badEnd.withLock { $0 = $0 ?? error } }

    /// The images that have a disk open now.
    func imagesOpen() -> [ImageFile] { openImages.all() }

    /// Counts an image among those that are open.
    func opened(_ image: ImageFile) {
        openImages.add(image)
        if options.isWritable { keeper.wake() }
        onOpened.withLock { $0 }?()
    }

    /// Counts it no longer.
    func closed(_ image: ImageFile) {
        openImages.remove(image)
    }

    /// The attributes of a file of the mount that shows something of the host file with `facts`.
    ///
    /// Others may read it where they may read the host file, unless the user has said who may: a mount that everybody
    /// can reach must not open an image that only its owner can read, or that lies where only its owner can go. `way` is
    /// what the directories leave through which a followed link leads.
    func fileAttributes(_ facts: HostFacts, isWritable: Bool, way: UInt32 = 0o777) -> FileAttributes {
        var result = FileAttributes()
        result.mode = (isWritable ? 0o644 : 0o444) & ~(options.fmask ?? 0)
        if options.fmask == nil, isShared.load(ordering: .relaxed) {
            result.mode &= facts.mode & admitted & way | 0o400
        }
        fill(&result, from: facts)
        return result
    }

    /// The attributes of a directory of the mount that stands for the host file or directory with `facts`.
    func directoryAttributes(_ facts: HostFacts) -> FileAttributes {
        var result = FileAttributes()
        result.isDirectory = true
        result.mode = 0o555 & ~options.dmask
        // Without the execute bits of a directory nobody gets to what is in it, on the host too.
        if options.fmask == nil, isShared.load(ordering: .relaxed), facts.isDirectory {
            result.mode &= facts.mode & admitted | 0o500
        }
        result.size = 4096
        result.blocks = 8
        fill(&result, from: facts)
        return result
    }

    /// The attributes of what the mount itself adds.
    func ownAttributes(isDirectory: Bool) -> FileAttributes {
        var result = FileAttributes()
        result.isDirectory = isDirectory
        result.mode = isDirectory ? 0o555 & ~options.dmask : 0o444 & ~(options.fmask ?? 0)
        result.uid = options.uid ?? getuid()
        result.gid = options.gid ?? getgid()
        result.modified = began
        result.changed = began
        return result
    }

    private func fill(_ attributes: inout FileAttributes, from facts: HostFacts) {
        attributes.uid = options.uid ?? facts.uid
        attributes.gid = options.gid ?? facts.gid
        attributes.modified = facts.modified
        attributes.changed = facts.changed
    }
}

/// The images of a mount that are open.
final class OpenImages: Sendable {
    private let images = Mutex<[ObjectIdentifier: ImageFile]>([:])

    /// All of them now.
    func all() -> [ImageFile] { images.withLock { Array($0.values) } }

    func add(_ image: ImageFile) { images.withLock { $0[ObjectIdentifier(image)] = image } }

    func remove(_ image: ImageFile) { _ = images.withLock { $0.removeValue(forKey: ObjectIdentifier(image)) } }
}

/// The facts of a host file or directory, as of one moment.
struct HostFacts: Sendable, Equatable {
    var identity: FileIdentity
    var size: UInt64
    /// In units of 512 bytes.
    var blocks: UInt64
    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    /// In nanoseconds since 1970.
    var modified: Int64
    var changed: Int64

    init(_ facts: clinux_file_facts) {
        identity = FileIdentity(device: facts.device, inode: facts.inode, birth: facts.birth_ns)
        size = facts.size
        blocks = facts.blocks
        mode = facts.mode
        uid = facts.uid
        gid = facts.gid
        modified = facts.modify_ns
        changed = facts.change_ns
    }

    /// Whether it is a directory.
    var isDirectory: Bool { mode & UInt32(S_IFMT) == UInt32(S_IFDIR) }

    /// What changes when somebody changes the content.
    var stamp: FileStamp { FileStamp(size: size, modified: modified, changed: changed) }
}
