internal import CLinux
internal import Glibc

/// Finds what keeps a mount busy, without touching the mount: links below /proc and /sys are read, never followed.
enum MountUsers {
    /// Processes with a file or their working directory in one of the mounts, and loop devices on their files, for
    /// each mountpoint; only what this user may look at. `servers` are the processes that serve the mounts, where they are
    /// known: one holds its own mount while changes are not saved, and is no user that could be told to let go.
    static func of(_ mountpoints: [[UInt8]], servers: [Int32?] = []) -> [[String]] {
        var result = [[String]](repeating: [], count: mountpoints.count)
        func add(_ user: String, _ pid: Int32? = nil, using path: [UInt8]) {
            for (index, mountpoint) in mountpoints.enumerated() where isInside(path, mountpoint) {
                if let pid, index < servers.count, servers[index] == pid { continue }
                if !result[index].contains(user) { result[index].append(user) }
            }
        }
        for name in HostPath.names(in: "/sys/block") where name.hasPrefix("loop") {
            guard var path = HostPath.contents("/sys/block/\(name)/loop/backing_file", limit: 8192) else { continue }
            if path.last == UInt8(ascii: "\n") { path.removeLast() }
            add("/dev/\(name)", using: path)
        }
        for name in HostPath.names(in: "/proc") {
            guard let pid = Int32(name), pid != getpid() else { continue }
            let links = ["cwd", "root", "exe"] + HostPath.names(in: "/proc/\(pid)/fd").map { "fd/\($0)" }
            for link in links {
                guard let target = HostPath.linkTarget("/proc/\(pid)/\(link)") else { continue }
                add("\(command(of: pid)) (pid \(pid))", pid, using: target)
            }
        }
        return result
    }

    /// The same for a mount that has been detached from its path, and for which only its device speaks.
    static func of(_ device: MountEntry.Device, server: Int32?) -> [String] {
        var result: [String] = []
        func add(_ user: String) { if !result.contains(user) { result.append(user) } }
        for name in HostPath.names(in: "/sys/block") where name.hasPrefix("loop") {
            let descriptor = open("/dev/\(name)", O_RDONLY | O_CLOEXEC | O_NONBLOCK)
            guard descriptor >= 0 else { continue }
            defer { close(descriptor) }
            var behind: UInt64 = 0
            if clinux_loop_device(descriptor, &behind) == 0, behind == device.number { add("/dev/\(name)") }
        }
        for name in HostPath.names(in: "/proc") {
            guard let pid = Int32(name), pid != getpid(), pid != server else { continue }
            let links = ["cwd", "root", "exe"] + HostPath.names(in: "/proc/\(pid)/fd").map { "fd/\($0)" }
            for link in links {
                var facts = clinux_file_facts()
                guard clinux_known_facts_at(AT_FDCWD, "/proc/\(pid)/\(link)", &facts) == 0 else { continue }
                if facts.device == device.number { add("\(command(of: pid)) (pid \(pid))") }
            }
        }
        return result
    }

    /// Whether `path` is `mountpoint` or something below it.
    static func isInside(_ path: [UInt8], _ mountpoint: [UInt8]) -> Bool {
        guard path.starts(with: mountpoint) else { return false }
        return path.count == mountpoint.count || mountpoint.last == UInt8(ascii: "/")
            || path[mountpoint.count] == UInt8(ascii: "/")
    }

    private static func command(of pid: Int32) -> String {
        let name = HostPath.contents("/proc/\(pid)/comm", limit: 64) ?? []
        return String(decoding: name.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }
}
