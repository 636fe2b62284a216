internal import CLinux
internal import Glibc

/// The processes that hold certain locks on a file, to name whoever has an image. Open-file-description locks carry no
/// process id, so the descriptors of all processes are looked at, and what the kernel says of the locks of each.
///
/// Some of those lie on mounts that hang, or on our own, whose requests the caller may be the last thread to answer: what
/// is not known without asking a mount is left alone. A server that has given up its privileges cannot look into the
/// processes of others; it says so rather than guess.
struct LockHolders {
    /// More than these are not named.
    private static let most = 4

    private let identity: FileIdentity?
    private let bytes: [Int64]
    /// The one descriptor of this process that does not count.
    private let own: Int32

    /// "name (pid n)" of each process that is known to hold such a lock.
    private(set) var names: [String] = []
    /// Whether there were processes that this one may not look into.
    private(set) var hasBlindSpot = false

    /// Looks for whoever holds a lock on one of `bytes` of `storage`, through any descriptor but that of `storage`.
    init(of storage: FileStorage, locking bytes: [Int64]) {
        identity = storage.identity
        self.bytes = bytes
        own = storage.descriptor
        guard let processes = opendir("/proc") else { return }
        defer { closedir(processes) }
        while names.count < Self.most, let entry = readdir(processes) {
            guard let pid = Int32(Self.name(of: entry)) else { continue }
            if holds(pid) {
                names.append(
                    pid == getpid()
                        ? "this server, as another image's parent or by another name"
                        : "\(Self.command(of: pid)) (pid \(pid))")
            }
        }
    }

    /// What is known, for a message; nil where that is nothing.
    var text: String? {
        if !names.isEmpty { return "held by " + names.joined(separator: ", ") }
        return hasBlindSpot ? "as root, 'fuser -v FILE' tells which" : nil
    }

    /// Returns whether a process has the file open by a descriptor that holds such a lock.
    private mutating func holds(_ pid: Int32) -> Bool {
        guard let identity, let descriptors = opendir("/proc/\(pid)/fd") else {
            if errno == EACCES || errno == EPERM { hasBlindSpot = true }
            return false
        }
        defer { closedir(descriptors) }
        while let entry = readdir(descriptors) {
            var facts = clinux_file_facts()
            let name = Self.name(of: entry)
            guard clinux_known_facts_at(dirfd(descriptors), name, &facts) == 0 else {
                if errno == EACCES || errno == EPERM { hasBlindSpot = true }
                continue
            }
            guard facts.device == identity.device, facts.inode == identity.inode, pid != getpid() || name != String(own)
            else { continue }
            if Self.locks("/proc/\(pid)/fdinfo/\(name)").contains(where: { range in
                bytes.contains(where: range.contains)
            }) {
                return true
            }
        }
        return false
    }

    /// The ranges of bytes that the locks of a descriptor cover: lines such as
    /// `lock: 1: OFDLCK ADVISORY READ -1 fd:01:1234 100 103` (proc(5), "fdinfo").
    private static func locks(_ path: String) -> [ClosedRange<Int64>] {
        text(path, limit: 65536).split(separator: "\n").compactMap { line in
            guard line.hasPrefix("lock:") else { return nil }
            let words = line.split { $0 == " " || $0 == "\t" }
            guard words.count >= 2, let first = Int64(words[words.count - 2]) else { return nil }
            let last = words[words.count - 1] == "EOF" ? Int64.max : Int64(words[words.count - 1])
            guard let last, last >= first else { return nil }
            return first...last
        }
    }

    private static func command(of pid: Int32) -> String {
        let name = text("/proc/\(pid)/comm", limit: 64).prefix { $0 != "\n" }
        return name.isEmpty ? "a process" : String(name)
    }

    /// The first `limit` bytes of a file of /proc; empty where it cannot be read.
    private static func text(_ path: String, limit: Int) -> String {
        let descriptor = clinux_open_at(AT_FDCWD, path, O_RDONLY)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: limit)
        let count = read(descriptor, &buffer, limit)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }

    private static func name(of entry: UnsafeMutablePointer<dirent>) -> String {
        withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
    }
}
