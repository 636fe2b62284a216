internal import CLinux
internal import Glibc
internal import Storage

/// What is checked about the place where the mount shall be, before anything is mounted.
struct Mountpoint {
    /// Whether it is a regular file, which becomes the disk.
    let isFile: Bool

    private static let fuseType: Int64 = 0x6573_5546  // FUSE_SUPER_MAGIC

    /// Looks at the mountpoint. Throws `.missing`, `.denied`, `.busy` or `.unsupported`, each with the way out.
    init(_ options: MountOptions) throws(ImageError) {
        let path = options.mountpoint
        var facts = clinux_file_facts()
        if clinux_facts_at(AT_FDCWD, path, 0, &facts) != 0 { throw Self.unreachable(path, errno) }
        switch facts.mode & FileType.mask {
        case FileType.directory: isFile = false
        case FileType.regular: isFile = true
        default: throw ImageError(.unsupported, "the mountpoint is neither a directory nor a regular file", file: path)
        }
        var type: Int64 = 0
        if clinux_filesystem_type(path, &type) != 0 { throw Self.unreachable(path, errno) }
        if type == Self.fuseType, clinux_is_mount_root(path) == 1 {
            throw ImageError(.busy, "is already a mountpoint; unmount it first or choose another", file: path)
        }
        if isFile { try Self.checkFile(options) } else if !options.allowNonEmpty { try Self.checkEmpty(path) }
        try Self.checkApart(options)
    }

    private static func unreachable(_ path: String, _ code: Int32) -> ImageError {
        switch code {
        case ENOENT, ENOTDIR:
            ImageError(.missing, "the mountpoint does not exist; create it first", errno: code, file: path)
        case ENOTCONN:
            // One of ours and of this user has been removed before; this is another program's, or another user's.
            ImageError(
                .busy, "a mount of another program or user is there, whose server died; it must be removed first",
                errno: code, detail: (geteuid() == 0 ? "" : "as root: ") + "umount -l '\(path)'", file: path)
        case EACCES: ImageError(.denied, "the mountpoint cannot be reached", errno: code, file: path)
        default: ImageError(.io, "cannot look at the mountpoint", errno: code, file: path)
        }
    }

    private static func checkFile(_ options: MountOptions) throws(ImageError) {
        if options.isDirectoryMode {
            throw ImageError(
                .unsupported, "a directory of images needs a directory as its mountpoint", file: options.mountpoint)
        }
        if options.partitions || options.snapshots || options.layers {
            throw ImageError(
                .unsupported, "partitions, snapshots and layers need a directory as the mountpoint",
                file: options.mountpoint)
        }
    }

    private static func checkEmpty(_ path: String) throws(ImageError) {
        guard let directory = opendir(path) else {
            throw ImageError(.denied, "the mountpoint cannot be read", errno: errno, file: path)
        }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let first = entry.pointee.d_name
            let isSelf = first.0 == 0x2E && (first.1 == 0 || (first.1 == 0x2E && first.2 == 0))
            if isSelf { continue }
            throw ImageError(
                .busy, "the mountpoint is not empty; choose an empty directory, or say -o nonempty", file: path)
        }
    }

    /// Refuses a mountpoint inside the directory of images and the reverse: the server would wait for itself.
    private static func checkApart(_ options: MountOptions) throws(ImageError) {
        let (source, mountpoint) = (resolved(options.source), resolved(options.mountpoint))
        let inSource = mountpoint == source || mountpoint.hasPrefix(source == "/" ? "/" : source + "/")
        let inMountpoint = source == mountpoint || source.hasPrefix(mountpoint == "/" ? "/" : mountpoint + "/")
        if options.isDirectoryMode, inSource {
            throw ImageError(
                .unsupported, "the mountpoint lies inside the directory of images; choose one outside",
                file: options.mountpoint)
        }
        if inMountpoint {
            throw ImageError(
                .unsupported, "the source lies at or below the mountpoint, which would hide it; choose another",
                file: options.mountpoint)
        }
    }

    private static func resolved(_ path: String) -> String {
        guard let real = realpath(path, nil) else { return path }
        defer { free(real) }
        return String(cString: real)
    }
}
