internal import CLinux
internal import Glibc

/// What a server that was killed leaves behind: a mount that answers every call with ENOTCONN and blocks its path.
enum DeadMount {
    /// More than this many on top of each other are left to a person.
    private static let deepest = 8

    /// Detaches the dead mounts of platter at `path` that this user has made. Returns what the last one showed, or nil
    /// when there was none; mounts of others, and those that answer, stay. Throws why one cannot be detached.
    static func clear(at path: String) throws(Failure) -> String? {
        var source: String?
        for _ in 0..<deepest {
            guard let entry = try find(at: path) else { break }
            try Unmounter(entry: entry, settings: UmountSettings(isLazy: true)).run()
            source = String(decoding: entry.source, as: UTF8.self)
        }
        return source
    }

    private static func find(at path: String) throws(Failure) -> MountEntry? {
        var type: Int64 = 0
        guard clinux_filesystem_type(path, &type) != 0, errno == ENOTCONN else { return nil }
        let name = Array(MountNames.resolved(path).utf8)
        guard let top = try MountTable.all().last(where: { $0.mountpoint == name }), top.isPlatter,
            top.has("user_id=\(geteuid())")
        else { return nil }
        return top
    }
}
