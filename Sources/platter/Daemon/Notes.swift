internal import Glibc
internal import Logging

/// The files that say who serves a mount: the runtime entry for `list` and `umount`, and the user's pid file. They exist
/// while the mount answers.
final class Notes {
    private let pidFile: String?
    private var written: [String] = []

    /// `pidFile` is absolute, or nil when the user wants none.
    init(pidFile: String?) { self.pidFile = pidFile }

    /// Writes both, once the mount answers; says in the log what cannot be written.
    func write(mountpoint: String, log: Logger) {
        let entries = (try? MountTable.platter()) ?? []
        if let entry = entries.last(where: { $0.mountpoint == Array(mountpoint.utf8) }) {
            if let path = RuntimeDirectory.note(device: entry.device) { written.append(path) }
        }
        guard let pidFile else { return }
        let descriptor = open(pidFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0, Output.write("\(getpid())\n", to: descriptor) else {
            log.error("\(pidFile): the pid file cannot be written: \(HostPath.reason(errno))")
            return
        }
        close(descriptor)
        written.append(pidFile)
    }

    /// Removes what was written.
    func remove() {
        for path in written { unlink(path) }
        written = []
    }
}
