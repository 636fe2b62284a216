internal import CLinux
internal import Glibc

extension MountSettings {
    /// Looks at what the server is to write once the mount answers, while nothing is mounted: whoever waits for a pid file
    /// or a descriptor would wait for ever. Throws one line about the first that cannot be written.
    func checkOutputs() throws(Failure) {
        if let readyDescriptor { try Self.checkReady(readyDescriptor) }
        if let pidFile { try Self.checkPidFile(pidFile) }
    }

    private static func checkReady(_ descriptor: Int32) throws(Failure) {
        let flags = fcntl(descriptor, F_GETFL)
        guard flags >= 0 else {
            throw .usage(
                "'--ready-fd': descriptor \(descriptor) is not open; in a shell, open it with \(descriptor)>FILE",
                command: "mount")
        }
        guard flags & O_ACCMODE != O_RDONLY, flags & clinux_path_only == 0 else {
            throw .usage("'--ready-fd': descriptor \(descriptor) cannot be written", command: "mount")
        }
    }

    /// The file is not made before the mount answers: that it exists says so.
    private static func checkPidFile(_ path: String) throws(Failure) {
        func refuse(_ reason: String) -> Failure {
            Failure(.system, "\(path): the pid file cannot be written: \(reason)")
        }
        var facts = clinux_file_facts()
        if clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 {
            let type = facts.mode & UInt32(S_IFMT)
            guard type != UInt32(S_IFDIR) else { throw refuse("it is a directory") }
            // It is removed at the end, which a device must not be, and a pipe would keep the server waiting.
            guard type == UInt32(S_IFREG) else { throw refuse("it is no regular file") }
            guard hasRoom(path) else { throw refuse(HostPath.reason(errno)) }
            return
        }
        guard errno == ENOENT else { throw refuse(HostPath.reason(errno)) }
        let absolute = HostPath.absolute(path)
        let directory = absolute.lastIndex(of: "/").map { String(absolute[...$0]) } ?? "/"
        guard !absolute.hasSuffix("/") else { throw refuse("it is a directory") }
        // What makes a file there tells more than the permissions: a full disk, or a directory such as /proc.
        let trial = directory + ".platter-pid-\(getpid())"
        let descriptor = clinux_make_file(AT_FDCWD, trial, 0o600)
        guard descriptor >= 0 else {
            guard errno != EEXIST else { return }
            let reason = HostPath.reason(errno)
            throw refuse(access(directory, F_OK) == 0 ? reason : "there is no directory \(directory)")
        }
        defer {
            close(descriptor)
            unlink(trial)
        }
        guard Output.write("\(getpid())\n", to: descriptor) else { throw refuse(HostPath.reason(errno)) }
    }

    /// Whether a regular file can be written and there is room for a line in it, which stays as it is; false with errno.
    private static func hasRoom(_ path: String) -> Bool {
        let descriptor = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        let keepSize: Int32 = 1
        guard clinux_fallocate(descriptor, keepSize, 0, 16) != 0 else { return true }
        return ![ENOSPC, EDQUOT, EFBIG].contains(errno)
    }
}
