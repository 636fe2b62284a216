internal import CLinux
internal import Glibc

/// A source and a mountpoint that fit each other: what can be checked before a process is made for them.
///
/// The session checks again what matters for safety; this is for the sentence that the user reads.
struct MountPlan: Sendable {
    /// The absolute path of the image or directory, without symbolic links.
    var source: String
    /// The absolute path of the mountpoint, without symbolic links.
    var mountpoint: String
    /// Whether every image below a directory is served.
    var isDirectoryMode: Bool
    /// Whether the mountpoint is a regular file, which becomes the disk.
    var isFileMountpoint: Bool

    /// Looks at the operands of `mount`. Throws one line that names the operand and the way out.
    init(_ operands: [String], _ settings: MountSettings) throws(Failure) {
        guard operands.count >= 2 else {
            let missing = operands.isEmpty ? "a source and a mountpoint are" : "a mountpoint is"
            throw .usage("\(missing) missing", command: "mount")
        }
        guard operands.count == 2 else {
            throw .usage("'\(operands[2])' is one argument too many", command: "mount")
        }
        source = try Self.source(operands[0])
        isDirectoryMode = try Self.kind(of: source) == S_IFDIR
        mountpoint = try Self.mountpoint(operands[1])
        isFileMountpoint = try Self.kind(of: mountpoint) == S_IFREG
        try check(settings)
    }

    private static func source(_ path: String) throws(Failure) -> String {
        guard access(path, F_OK) == 0 else {
            throw Failure(.mount, "\(path): \(HostPath.reason(errno)); name an image or a directory of images")
        }
        return try HostPath.existing(path, .mount)
    }

    private static func mountpoint(_ path: String) throws(Failure) -> String {
        if let resolved = try? HostPath.existing(path, .mount) {
            if access(resolved, F_OK) == 0 || errno != ENOTCONN { return resolved }
        }
        switch errno {
        case ENOENT:
            throw Failure(.mount, "\(path): the mountpoint does not exist; make the directory first (mkdir -p)")
        case ENOTCONN:
            // A mount whose server was killed. realpath fails on it, too.
            try removeDead(path)
            return try HostPath.existing(path, .mount)
        case let code: throw Failure(.mount, "\(path): cannot be used as a mountpoint: \(HostPath.reason(code))")
        }
    }

    /// Detaches a mount of platter whose server has gone; other filesystems are left to their users.
    private static func removeDead(_ path: String) throws(Failure) {
        let dead: Failure = Failure(
            .mount, "\(path): a mount here has lost its server; detach it first (umount -l, or fusermount3 -uz)")
        guard let entry = try? Unmounter.find(path, in: try MountTable.platter()) else { throw dead }
        do throws(Failure) {
            try Unmounter(entry: entry, settings: UmountSettings(isLazy: true)).run()
        } catch { throw dead }
    }

    private static func kind(of path: String) throws(Failure) -> UInt32 {
        var facts = clinux_file_facts()
        guard clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 else {
            throw Failure(.mount, "\(path): \(HostPath.reason(errno))")
        }
        return facts.mode & UInt32(S_IFMT)
    }

    private func check(_ settings: MountSettings) throws(Failure) {
        if try MountTable.platter().contains(where: { $0.mountpoint == Array(mountpoint.utf8) }) {
            throw Failure(.mount, "\(mountpoint): already a mount of platter; unmount it first (platter umount)")
        }
        if MountUsers.isInside(Array(source.utf8), Array(mountpoint.utf8)) {
            throw Failure(.mount, "\(mountpoint): the mount would hide \(source); choose another mountpoint")
        }
        if isDirectoryMode, MountUsers.isInside(Array(mountpoint.utf8), Array(source.utf8)) {
            throw Failure(.mount, "\(mountpoint): lies inside \(source); choose a mountpoint outside of it")
        }
        if isDirectoryMode, settings.name != nil {
            throw .usage("'name' is for one image; a directory's images keep their names", command: "mount")
        }
        if isFileMountpoint { try checkFile(settings) } else { try checkDirectory(settings) }
    }

    private func checkFile(_ settings: MountSettings) throws(Failure) {
        if isDirectoryMode {
            throw Failure(.mount, "\(mountpoint): a regular file can show one image only; use a directory")
        }
        let extras = [
            ("partitions", settings.showsPartitions), ("snapshots", settings.showsSnapshots),
            ("layers", settings.showsLayers), ("name", settings.name != nil),
        ]
        if let extra = extras.first(where: { $0.1 }) {
            throw .usage(
                "'\(extra.0)' needs a directory as mountpoint, and \(mountpoint) is a regular file", command: "mount")
        }
        var facts = clinux_file_facts()
        guard settings.allowsNonEmpty || clinux_facts_at(AT_FDCWD, mountpoint, 0, &facts) == 0 && facts.size == 0 else {
            throw Failure(
                .mount, "\(mountpoint): the file is not empty; choose an empty one, or say -o nonempty to cover it")
        }
    }

    private func checkDirectory(_ settings: MountSettings) throws(Failure) {
        guard try Self.kind(of: mountpoint) == S_IFDIR else {
            throw Failure(.mount, "\(mountpoint): neither a directory nor a regular file; mount on one of those")
        }
        guard settings.allowsNonEmpty || HostPath.names(in: mountpoint).isEmpty else {
            throw Failure(
                .mount,
                "\(mountpoint): the directory is not empty; choose an empty one, or say -o nonempty to cover it")
        }
    }
}
