internal import CFuse3
internal import CLinux
internal import Glibc
internal import Logging
internal import Storage

/// The callbacks of libfuse's low-level interface: C functions that find the file system through libfuse's user data.
///
/// They run on the workers, so none of them may be a closure of an actor; errors are answered here and end here.
enum Operations {
    /// The table that the session is made with.
    static func table(isWritable: Bool) -> fuse_lowlevel_ops {
        var table = fuse_lowlevel_ops()
        table.`init` = onInitialise
        table.lookup = onLookup
        table.forget = onForget
        table.forget_multi = onForgetMany
        table.getattr = onAttributes
        table.open = onOpen
        table.read = onRead
        table.release = onRelease
        table.lseek = onSeek
        table.flush = onFlush
        table.fsync = onSynchronise
        table.fsyncdir = onSynchroniseDirectory
        table.opendir = onOpenDirectory
        table.readdir = onList
        table.readdirplus = onListPlus
        table.releasedir = onReleaseDirectory
        table.statfs = onStatistics
        if isWritable { acceptWriting(&table) } else { refuseChanges(&table) }
        return table
    }

    /// Runs `body` with the file system behind a request, without counting a reference to it.
    static func withSystem<Value>(_ request: fuse_req_t?, _ body: (FileSystem) -> Value) -> Value? {
        guard let pointer = clinux_fuse_req_userdata(request) else { return nil }
        return Unmanaged<FileSystem>.fromOpaque(pointer)._withUnsafeGuaranteedRef(body)
    }

    /// Runs `body` and answers the error it throws. One line for each request with `-d`.
    static func answer(
        _ request: fuse_req_t?, _ operation: StaticString, _ node: fuse_ino_t,
        _ body: (FileSystem) throws(ImageError) -> Void
    ) {
        _ = withSystem(request) { system in
            if system.context.options.debug { system.context.log.debug("\(operation) node \(node)") }
            do throws(ImageError) { try body(system) } catch {
                if system.context.options.debug { system.context.log.debug("\(operation) node \(node): \(error)") }
                clinux_fuse_reply_err(request, errorNumber(error))
            }
        }
    }

    /// What a program sees of an error. That an image cannot be opened is an I/O error is the image's own to say.
    static func errorNumber(_ error: ImageError) -> Int32 {
        switch error.kind {
        case .malformed, .corrupt, .io: EIO
        // The kernel would take it for an answer to all later requests too.
        default: error.errno == ENOSYS ? EIO : error.errno
        }
    }
}

func onInitialise(_ data: UnsafeMutableRawPointer?, _ connection: UnsafeMutablePointer<fuse_conn_info>?) {
    guard let data, let connection else { return }
    Unmanaged<FileSystem>.fromOpaque(data)._withUnsafeGuaranteedRef { $0.initialise(connection) }
}

func onLookup(_ request: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    Operations.answer(request, "LOOKUP", parent) { (system) throws(ImageError) in
        guard let name else { throw ImageError(.missing, "no name") }
        let bytes = Name(UnsafeRawBufferPointer(start: name, count: strlen(name)))
        // The kernel asks for longer names than statfs tells of.
        guard bytes.count <= ExposedName.longest else {
            throw ImageError(.missing, "the name is too long", errno: ENAMETOOLONG)
        }
        var entry = try system.lookup(bytes, in: parent)
        if clinux_fuse_reply_entry(request, &entry) != 0 { system.table.forget(entry.ino, count: 1) }
    }
}

func onForget(_ request: fuse_req_t?, _ node: fuse_ino_t, _ count: UInt64) {
    _ = Operations.withSystem(request) { $0.table.forget(node, count: count) }
    clinux_fuse_reply_none(request)
}

func onForgetMany(_ request: fuse_req_t?, _ count: Int, _ list: UnsafeMutablePointer<fuse_forget_data>?) {
    _ = Operations.withSystem(request) { system in
        guard let list else { return }
        for index in 0..<count { system.table.forget(list[index].ino, count: list[index].nlookup) }
    }
    clinux_fuse_reply_none(request)
}

func onAttributes(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    Operations.answer(request, "GETATTR", node) { (system) throws(ImageError) in
        var (attributes, timeout) = try system.attributes(of: node)
        clinux_fuse_reply_attr(request, &attributes, timeout)
    }
}

func onStatistics(_ request: fuse_req_t?, _ node: fuse_ino_t) {
    Operations.answer(request, "STATFS", node) { (system) throws(ImageError) in
        var result = system.statistics()
        clinux_fuse_reply_statfs(request, &result)
    }
}
