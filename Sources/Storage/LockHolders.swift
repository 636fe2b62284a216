internal import CLinux
internal import Glibc

/// Finds which processes have a file open, to name whoever holds an image. Open-file-description locks carry no
/// process id, so the descriptors of all processes are looked at.
///
/// Some of those lie on mounts that hang, or on our own, whose requests the caller may be the last thread to answer: what
/// is not known without asking a mount is left alone.
enum LockHolders {
    /// "name (pid n)" of every other process that has the file open and that this user may look at; at most 4. Where there
    /// is none, but this process has opened the file once more, that is what holds it.
    static func of(_ storage: FileStorage) -> [String] {
        guard let identity = storage.identity, let processes = opendir("/proc") else { return [] }
        defer { closedir(processes) }
        var holders: [String] = []
        while holders.count < 4, let entry = readdir(processes) {
            guard let pid = Int32(name(of: entry)), pid != getpid(), hasOpen(identity, pid: pid) else { continue }
            holders.append("\(command(of: pid)) (pid \(pid))")
        }
        if holders.isEmpty, hasOpen(identity, pid: getpid(), times: 2) {
            holders.append("this server, as another image's parent or by another name")
        }
        return holders
    }

    private static func hasOpen(_ identity: FileIdentity, pid: Int32, times: Int = 1) -> Bool {
        guard let descriptors = opendir("/proc/\(pid)/fd") else { return false }
        defer { closedir(descriptors) }
        var found = 0
        while let entry = readdir(descriptors) {
            var facts = clinux_file_facts()
            guard clinux_known_facts_at(dirfd(descriptors), name(of: entry), &facts) == 0 else { continue }
            if facts.device == identity.device, facts.inode == identity.inode { found += 1 }
            if found == times { return true }
        }
        return false
    }

    private static func command(of pid: Int32) -> String {
        let descriptor = clinux_open_at(AT_FDCWD, "/proc/\(pid)/comm", O_RDONLY)
        guard descriptor >= 0 else { return "a process" }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 64)
        let count = read(descriptor, &buffer, buffer.count)
        return String(decoding: buffer.prefix(max(0, count)).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    private static func name(of entry: UnsafeMutablePointer<dirent>) -> String {
        withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
    }
}
