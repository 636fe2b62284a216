internal import CLinux
internal import Glibc

/// Ends one mount of platter.
struct Unmounter {
    let entry: MountEntry
    let settings: UmountSettings

    private var mountpoint: String { String(decoding: entry.mountpoint, as: UTF8.self) }

    /// The mount that `target` names: by its mountpoint, or by the image or directory that is mounted. Throws when there
    /// is none, and when an image is mounted more than once.
    static func find(_ target: String, in mounts: [MountEntry]) throws(Failure) -> MountEntry {
        let names = MountNames(target)
        if let top = mounts.last(where: { names.match(mountpoint: $0.mountpoint) }) { return top }
        let found = mounts.filter { names.match(source: $0.source) }
        guard let entry = found.last else { throw names.unknown(.mount) }
        guard found.count == 1 else {
            let places = found.map { String(decoding: $0.mountpoint, as: UTF8.self) }.joined(separator: ", ")
            throw Failure(.mount, "\(target): mounted more than once; name one of the mountpoints: \(places)")
        }
        return entry
    }

    /// Whether images can be written through the mount.
    private var isWritable: Bool { entry.has("rw") && !entry.has("ro") }

    /// Whether this command waits for the server's end: its last commit is known only then.
    private var waits: Bool { settings.isWaiting || isWritable && !settings.isLazy }

    /// Unmounts and, where asked or needed, waits for the server to end. Throws failures with the status of umount(8), and
    /// one when the server could not save what was written last.
    func run() throws(Failure) {
        let note = RuntimeDirectory.entries().first { $0.serves(entry) }
        let server = note?.pid ?? (waits ? pidThatTheMountNames() : nil)
        // Taken before the mount goes: afterwards the process id may soon be somebody else's.
        let handle = waits ? server.map { clinux_pidfd($0) } ?? -1 : -1
        defer { if handle >= 0 { close(handle) } }
        if isWritable, !settings.isLazy { try commit() }
        try detach(from: server)
        guard waits, let server else { return }
        try waitForEnd(of: server, handle)
        if let failure = note.flatMap({ RuntimeDirectory.takeFailure(of: $0) }) {
            throw Failure(.mount, "\(mountpoint): unmounted, but the last changes are not saved: \(failure)")
        }
    }

    /// The server by its own words, for a user who has no directory where it could leave a note; nil where the mount does
    /// not answer.
    private func pidThatTheMountNames() -> Int32? {
        let path = mountpoint + "/.platter/status.json"
        guard let bytes = HostPath.contents(path, limit: 1 << 20) else { return nil }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        guard let line = lines.first(where: { $0.hasPrefix("  \"pid\": ") }) else { return nil }
        return Int32(line.dropFirst(9).prefix { $0.isNumber }).flatMap { $0 > 1 ? $0 : nil }
    }

    private func waitForEnd(of server: Int32, _ handle: Int32) throws(Failure) {
        let patience = settings.timeout ?? 60
        guard handle >= 0 else {
            guard kill(server, 0) == 0 else { return }
            throw Failure(.system, "\(mountpoint): unmounted, but its server (pid \(server)) cannot be waited for")
        }
        var waiting = pollfd(fd: handle, events: Int16(POLLIN), revents: 0)
        let deadline = Clock.now() + patience
        var count: Int32
        repeat {
            count = poll(&waiting, 1, Int32(min(max(0, deadline - Clock.now()) * 1000, 2_000_000_000)))
        } while count < 0 && errno == EINTR
        guard count > 0 else {
            throw Failure(.mount, "\(mountpoint): unmounted, but its server (pid \(server)) still runs")
        }
    }

    /// Has the server save what it holds, while a failure can still be mended. A server that is not asked this way does
    /// it before it lets the mount go.
    private func commit() throws(Failure) {
        let path = (entry.mountpoint + [0]).map { CChar(bitPattern: $0) }
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        guard fsync(descriptor) != 0, errno == ENOSPC || errno == EDQUOT else { return }
        throw Failure(
            .mount,
            "\(mountpoint): still mounted: there is no room on the host for what was written; make some and try again; "
                + "with --lazy the server goes on without the mount, until there is room or you end it")
    }

    /// Tries until the mount is not in use any more: by programs, or by the server, which keeps it busy itself while
    /// changes are not saved.
    private func detach(from server: Int32?) throws(Failure) {
        let deadline = Clock.now() + (settings.timeout ?? (waits ? 60 : 5))
        while true {
            let code = geteuid() == 0 ? detachAsRoot() : try detachAsUser()
            if code == 0 { return }
            // A mount whose server has died has nothing to save, whoever is still in it.
            if code == EBUSY, !settings.isLazy, MountProbe.isDead(entry) {
                var lazy = settings
                lazy.isLazy = true
                return try Unmounter(entry: entry, settings: lazy).detach(from: server)
            }
            guard code == EBUSY, Clock.now() < deadline else { throw failure(code, server) }
            usleep(50_000)
        }
    }

    private func detachAsRoot() -> Int32 {
        let path = (entry.mountpoint + [0]).map { CChar(bitPattern: $0) }
        let flags = Int32(UMOUNT_NOFOLLOW) | (settings.isLazy ? Int32(MNT_DETACH) : 0)
        return umount2(path, flags) == 0 ? 0 : errno
    }

    /// Through fusermount3, which may unmount what its user has mounted. Its words are not passed on: it is asked again
    /// while the mount is busy.
    private func detachAsUser() throws(Failure) -> Int32 {
        var arguments = ["fusermount3", "-u", "-q", "--", mountpoint]
        if settings.isLazy { arguments.insert("-z", at: 2) }
        guard let status = Program.run(arguments) else {
            throw Failure(.system, "fusermount3: cannot be started; install the package fuse3")
        }
        if status == 0 { return 0 }
        // fusermount3 says 1 whatever happened: a mount that is still there and answers is taken for busy.
        return try MountTable.platter().contains { $0.device == entry.device } ? EBUSY : 0
    }

    private func failure(_ code: Int32, _ server: Int32?) -> Failure {
        guard code == EBUSY else { return Failure(.mount, "\(mountpoint): \(HostPath.reason(code))") }
        let users = MountUsers.of([entry.mountpoint], servers: [server])[0]
        let who = users.isEmpty ? "" : " (" + users.prefix(4).joined(separator: ", ") + ")"
        return Failure(.mount, "\(mountpoint): in use\(who); end that first, or detach with --lazy")
    }
}
