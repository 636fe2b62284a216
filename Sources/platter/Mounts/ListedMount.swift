internal import Glibc

/// One mount as `platter list` shows it.
struct ListedMount: Sendable {
    /// What has become of a mount.
    enum State: String, Sendable {
        /// It is where it says.
        case mounted
        /// Its server has died: every call on it fails, and it blocks its mountpoint.
        case dead
        /// It is not on its path any more (TERM, `umount --lazy`), and served on for those who still use it.
        case detached
    }

    /// The image or directory.
    var image: [UInt8]
    /// Where it is, or was, mounted.
    var mountpoint: [UInt8]
    /// The server, where it is known.
    var pid: Int32?
    /// "ro", "rw" or "overlay".
    var mode: String
    /// The file that takes the writes in place of the image, where it is known.
    var overlay: [UInt8]?
    var state: State
    /// Whether this user may unmount it.
    var isOurs: Bool
    /// What keeps the mount busy.
    var users: [String]

    /// All mounts of platter that this process sees, and those that only their servers know of any more.
    static func all() throws(Failure) -> [ListedMount] {
        let entries = try MountTable.platter()
        let notes = RuntimeDirectory.entries()
        let served = entries.map { entry in notes.first { $0.serves(entry) } }
        let users = MountUsers.of(entries.map(\.mountpoint), servers: served.map { $0?.pid })
        let mounts = entries.indices.map { index in
            let (entry, note) = (entries[index], served[index])
            return ListedMount(
                image: entry.source, mountpoint: entry.mountpoint, pid: note?.pid,
                mode: note?.place?.mode ?? (entry.has("rw") && !entry.has("ro") ? "rw" : "ro"),
                overlay: note?.place?.overlay,
                state: note == nil && MountProbe.isDead(entry) ? .dead : .mounted,
                isOurs: geteuid() == 0 || entry.has("user_id=\(geteuid())"), users: users[index])
        }
        return mounts + notes.filter { note in !entries.contains(where: note.serves) }.compactMap(detached)
    }

    /// The mount of a server that runs, and is on no path; nil where it is on one that this process does not see.
    private static func detached(_ note: RuntimeEntry) -> ListedMount? {
        guard let place = note.place, let bytes = HostPath.contents("/proc/\(note.pid)/mountinfo", limit: 64 << 20),
            !MountTable.entries(of: bytes).contains(where: { $0.device == note.device })
        else { return nil }
        return ListedMount(
            image: place.source, mountpoint: place.mountpoint, pid: note.pid, mode: place.mode, overlay: place.overlay,
            state: .detached, isOurs: geteuid() == 0 || note.owner == geteuid(),
            users: MountUsers.of(note.device, server: note.pid))
    }

    /// For programs.
    static func json(_ mounts: [ListedMount]) -> JSONText {
        .array(
            mounts.map { mount in
                .object(
                    JSONText.name("image", mount.image) + JSONText.name("mountpoint", mount.mountpoint) + [
                        ("pid", mount.pid.map { .number(UInt64($0)) } ?? .null), ("mode", .string(mount.mode)),
                        ("state", .string(mount.state.rawValue)),
                    ] + (mount.overlay.map { JSONText.name("overlay", $0) } ?? [("overlay", .null)]) + [
                        ("users", .array(mount.users.map { .string($0) }))
                    ])
            })
    }

    /// For people; nothing at all when there is no mount.
    static func text(_ mounts: [ListedMount]) -> String {
        guard !mounts.isEmpty else { return "" }
        let rows = mounts.map { mount in
            [
                line(mount.image), line(mount.mountpoint), mount.pid.map { "\($0)" } ?? "-",
                mount.mode + (mount.overlay.map { " (\(line($0)))" } ?? ""), mount.state.rawValue,
                mount.users.isEmpty ? "-" : Printable.line(mount.users.joined(separator: ", ")),
            ]
        }
        return Table.text([["IMAGE", "MOUNTPOINT", "PID", "MODE", "STATE", "USED BY"]] + rows)
    }

    /// What to do about a mount that is no use to anybody, and about one that cannot be found any more.
    var advice: String? {
        switch state {
        case .mounted: nil
        case .dead:
            "\(Self.line(mountpoint)): its server has died; remove the mount with: "
                + (isOurs ? "platter umount " : "sudo umount -l ") + Self.line(mountpoint)
        case .detached:
            "\(Self.line(image)): not mounted any more, but its server (pid \(pid ?? 0)) goes on until "
                + (users.isEmpty ? "its last user" : Printable.line(users.joined(separator: ", "))) + " is done with it"
        }
    }

    private static func line(_ name: [UInt8]) -> String { Printable.line(String(decoding: name, as: UTF8.self)) }
}
