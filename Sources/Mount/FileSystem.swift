internal import CFuse3
internal import CLinux
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// The state behind the callbacks of one session: libfuse carries a pointer to it as its user data.
final class FileSystem: Sendable {
    let context: MountContext
    let table: NodeTable
    /// The attributes of the host filesystem that statfs shows come from here.
    let statfsPath: String
    private let initialised = Atomic<Bool>(false)

    init(context: MountContext, root: Content) {
        self.context = context
        table = NodeTable(root: root)
        statfsPath = context.options.source
        context.serves(table)
    }

    /// Whether the kernel's INIT has been answered.
    var isInitialised: Bool { initialised.load(ordering: .acquiring) }

    /// Agrees with the kernel on what both can do.
    func initialise(_ connection: UnsafeMutablePointer<fuse_conn_info>) {
        clinux_fuse_limit(connection, 1 << 20, 64)
        for ability in [CLINUX_FUSE_ASYNC_READ, CLINUX_FUSE_ASYNC_DIRECT, CLINUX_FUSE_PARALLEL_DIRECTORIES] {
            clinux_fuse_want(connection, ability, 1)
        }
        // Replies are written to the device: none may be due in a ring, where libfuse's environment asks for one.
        for ability in [CLINUX_FUSE_SPLICE_READ, CLINUX_FUSE_EXPORT, CLINUX_FUSE_IO_URING] {
            clinux_fuse_want(connection, ability, 0)
        }
        // A disk that is written gets a new time with each write: the kernel would drop its pages at each look.
        if context.options.isWritable { clinux_fuse_want(connection, CLINUX_FUSE_AUTO_INVALIDATE, 0) }
        initialised.store(true, ordering: .releasing)
    }

    /// How long the kernel may keep attributes of a node, in seconds.
    func attributeTimeout(_ node: Node) -> Double { context.options.attrTimeout ?? node.timeout }

    /// Finds `name` in a directory and counts that the kernel holds it. Throws `.missing` and `.io`.
    func lookup(_ name: Name, in parent: UInt64) throws(ImageError) -> fuse_entry_param {
        guard let node = table.node(parent), case .directory(let directory) = node.content else {
            throw ImageError(.missing, "no such directory", errno: node(parent))
        }
        guard let entry = try directory.entry(named: name) else {
            throw ImageError(.missing, "no such file")
        }
        return try hold(entry, in: directory)
    }

    private func node(_ id: UInt64) -> Int32 { table.node(id) == nil ? ESTALE : ENOTDIR }

    /// Counts that the kernel holds `entry`, and describes it. Throws like `Node.attributes`.
    func hold(_ entry: Entry, in directory: any DirectoryContent) throws(ImageError) -> fuse_entry_param {
        let child = table.hold(entry)
        let attributes: FileAttributes
        do throws(ImageError) { attributes = try child.attributes() } catch {
            table.forget(child.id, count: 1)
            throw error
        }
        var result = fuse_entry_param()
        result.attr = attributes.asStat
        result.ino = child.id
        let timeout = entry.timeout ?? directory.timeout
        result.entry_timeout = context.options.entryTimeout ?? timeout
        // The watch of a directory tells of changes of the files in it; a subdirectory answers for itself.
        let wanted = entry.isDirectory ? attributeTimeout(child) : context.options.attrTimeout ?? timeout
        result.attr_timeout = min(wanted, attributes.lifetime)
        return result
    }

    /// The attributes of a node. Throws `.missing` and `.io`.
    func attributes(of id: UInt64) throws(ImageError) -> (attributes: stat, timeout: Double) {
        guard let node = table.node(id) else { throw ImageError(.missing, "no such file", errno: ESTALE) }
        let attributes = try node.attributes()
        return (attributes.asStat, min(attributeTimeout(node), attributes.lifetime))
    }

    /// Opens a file. Throws what opening the image throws.
    func open(_ id: UInt64, _ mode: OpenMode) throws(ImageError) -> OpenFile {
        guard let node = table.node(id) else { throw ImageError(.missing, "no such file", errno: ESTALE) }
        guard case .file(let file) = node.content else {
            throw ImageError(.unsupported, "is a directory", errno: EISDIR)
        }
        return try file.open(mode)
    }

    /// Answers a change of attributes: `size` is the one to set, if there is one. Times of a disk are those of its image,
    /// and who sets them is told that it is done; a size may be set to what it is. Throws EPERM for everything else.
    func change(_ id: UInt64, size: UInt64?, onlyTimes: Bool) throws(ImageError) -> (attributes: stat, timeout: Double)
    {
        guard let node = table.node(id) else { throw ImageError(.missing, "no such file", errno: ESTALE) }
        guard case .file(let file) = node.content, file.isWritable, onlyTimes else { throw .notPermitted }
        let (attributes, timeout) = try attributes(of: id)
        if let size, size != UInt64(attributes.st_size) { throw .notPermitted }
        return (attributes, timeout)
    }

    /// Opens a directory for listing.
    func openDirectory(_ id: UInt64) throws(ImageError) -> OpenDirectory {
        guard let node = table.node(id) else { throw ImageError(.missing, "no such directory", errno: ESTALE) }
        guard case .directory(let directory) = node.content else {
            throw ImageError(.unsupported, "is not a directory", errno: ENOTDIR)
        }
        return OpenDirectory(id, directory)
    }

    /// What statfs shows: the room of the host filesystem that holds the source, in blocks that suit a loop device.
    func statistics() -> statvfs {
        var result = statvfs()
        let unit: UInt = 65536
        var host = statvfs()
        if statvfs(statfsPath, &host) == 0 {
            let scale = max(1, UInt64(host.f_frsize))
            func blocks(_ count: UInt64) -> UInt64 {
                count.multipliedReportingOverflow(by: scale).partialValue / UInt64(unit)
            }
            result.f_blocks = fsblkcnt_t(blocks(UInt64(host.f_blocks)))
            result.f_bfree = fsblkcnt_t(blocks(UInt64(host.f_bfree)))
            result.f_bavail = fsblkcnt_t(blocks(UInt64(host.f_bavail)))
            (result.f_files, result.f_ffree, result.f_favail) = (host.f_files, host.f_ffree, host.f_favail)
        }
        result.f_bsize = unit
        result.f_frsize = unit
        result.f_namemax = 255
        if !context.options.isWritable { result.f_flag = UInt(ST_RDONLY) }
        return result
    }
}

/// One open(2) of a directory: a listing made when reading starts, so that offsets stay true while the directory changes.
final class OpenDirectory: Sendable {
    let id: UInt64
    let content: any DirectoryContent
    private let listing = Mutex<[Entry]?>(nil)

    init(_ id: UInt64, _ content: any DirectoryContent) {
        self.id = id
        self.content = content
    }

    /// The listing; made again when reading starts over. Throws `.missing` and `.io`.
    func entries(startingOver: Bool) throws(ImageError) -> [Entry] {
        if !startingOver, let known = listing.withLock({ $0 }) { return known }
        let fresh = try content.entries()
        listing.withLock { $0 = fresh }
        return fresh
    }
}
