internal import CLinux
internal import Glibc
internal import Logging

/// The files that say who serves a mount: the runtime entry for `list` and `umount`, and the user's pid file. They exist
/// while the mount answers.
final class Notes {
    private let pidFile: String?
    private var written: [String] = []
    private var runtime: String?
    /// The pid file where it had to be opened while the process still could, or -1.
    private var early: Int32 = -1

    /// `pidFile` is absolute, or nil when the user wants none.
    init(pidFile: String?) { self.pidFile = pidFile }

    /// To be called while the process has its privileges: root gives up the one to write to other users' directories.
    func prepare() {
        guard let pidFile, geteuid() == 0, let slash = pidFile.lastIndex(of: "/") else { return }
        var facts = clinux_file_facts()
        let directory = slash == pidFile.startIndex ? "/" : String(pidFile[..<slash])
        guard clinux_facts_at(AT_FDCWD, directory, 0, &facts) == 0, facts.uid != 0, facts.mode & 0o002 == 0 else {
            return
        }
        early = Self.make(pidFile)
        if early >= 0 { written.append(pidFile) }
    }

    private static func make(_ pidFile: String) -> Int32 {
        open(pidFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    }

    /// Writes both, once the mount answers; says in the log what cannot be written.
    func write(_ place: RuntimeEntry.Place, log: Logger) {
        let entries = (try? MountTable.platter()) ?? []
        if let entry = entries.last(where: { $0.mountpoint == place.mountpoint }) {
            runtime = RuntimeDirectory.note(device: entry.device, place: place)
        }
        guard let pidFile else { return }
        let descriptor = early >= 0 ? early : Self.make(pidFile)
        guard descriptor >= 0, Output.write("\(getpid())\n", to: descriptor) else {
            log.error("\(pidFile): the pid file cannot be written: \(HostPath.reason(errno))")
            return
        }
        guard early < 0 else { return }
        close(descriptor)
        written.append(pidFile)
    }

    /// Removes what was written. A pid file that can no longer be removed is emptied. After a `failure` to save what was
    /// written the note stays, and says so to `umount`.
    func remove(failure: String?) {
        if let runtime {
            if let failure { RuntimeDirectory.leave(failure: failure, at: runtime) } else { unlink(runtime) }
        }
        runtime = nil
        for path in written where unlink(path) != 0 && path == pidFile && early >= 0 { ftruncate(early, 0) }
        written = []
    }
}
