internal import Glibc

/// A directory of its own for one test, removed with all that is in it when the last reference goes.
package final class TemporaryDirectory: Sendable {
    /// The absolute path, without a slash at the end.
    package let path: String

    /// Makes `platter-<label>.<pid>.XXXXXX` below TMPDIR, or below /var/tmp: images are large and /tmp may be memory.
    package init(_ label: String = "test") throws {
        let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp"
        var template = Array("\(parent)/platter-\(label).\(getpid()).XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw HostFailure("cannot make a directory in \(parent)") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        // A mount shows others nothing of what lies in a directory that is closed to them.
        guard chmod(path, 0o755) == 0 else { throw HostFailure("cannot open a directory in \(parent)") }
    }

    deinit { HostFiles.removeTree(path) }

    /// The path of `name` in the directory.
    package func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Makes a file of `bytes` and returns its path.
    @discardableResult
    package func write(_ bytes: [UInt8], to name: String) throws -> String {
        try HostFiles.write(bytes, to: file(name))
        return file(name)
    }
}

/// A call on the host that failed in a test's own set-up.
package struct HostFailure: Error, CustomStringConvertible {
    package let description: String

    /// Says what failed; the host's reason is added when `code` is not 0.
    package init(_ what: String, errno code: Int32 = errno) {
        description = code == 0 ? what : "\(what): \(String(cString: strerror(code)))"
    }
}

/// Plain file operations for tests, without Foundation.
package enum HostFiles {
    /// A descriptor of the file at `path`, for whoever takes it over.
    package static func open(_ path: String, writing: Bool) throws -> Int32 {
        let descriptor = Glibc.open(path, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC)
        guard descriptor >= 0 else { throw HostFailure("cannot open \(path)") }
        return descriptor
    }

    /// The content of a small file.
    package static func read(_ path: String) throws -> [UInt8] {
        let descriptor = try open(path, writing: false)
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw HostFailure("cannot read \(path)") }
            if count == 0 { return bytes }
            bytes += buffer[..<count]
        }
    }

    /// The content of a small text file.
    package static func text(_ path: String) throws -> String { String(decoding: try read(path), as: UTF8.self) }

    /// Makes or replaces a file.
    package static func write(_ bytes: [UInt8], to path: String) throws {
        try write(bytes, at: 0, of: path, flags: O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC)
    }

    /// Overwrites a part of a file, which is made where there is none.
    package static func patch(_ bytes: [UInt8], at offset: Int64, of path: String) throws {
        try write(bytes, at: offset, of: path, flags: O_WRONLY | O_CREAT | O_CLOEXEC)
    }

    private static func write(_ bytes: [UInt8], at offset: Int64, of path: String, flags: Int32) throws {
        let descriptor = Glibc.open(path, flags, 0o644)
        guard descriptor >= 0 else { throw HostFailure("cannot make \(path)") }
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                pwrite(descriptor, $0.baseAddress.map { $0 + done }, bytes.count - done, off_t(offset) + off_t(done))
            }
            guard count > 0 else { throw HostFailure("cannot write \(path)") }
            done += count
        }
    }

    /// Sets the size of a file, which is made where there is none; what is added is a hole.
    package static func truncate(_ path: String, to size: UInt64) throws {
        let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw HostFailure("cannot make \(path)") }
        defer { close(descriptor) }
        guard ftruncate(descriptor, off_t(size)) == 0 else { throw HostFailure("cannot set the size of \(path)") }
    }

    /// Whether something is at `path`.
    package static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// Whether `path` is a directory.
    package static func isDirectory(_ path: String) -> Bool {
        guard let directory = opendir(path) else { return false }
        closedir(directory)
        return true
    }

    /// The names in a directory, sorted, without "." and "..".
    package static func list(_ path: String) throws -> [String] {
        guard let directory = opendir(path) else { throw HostFailure("cannot list \(path)") }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Removes a file, or a directory and everything below it; symbolic links are not followed.
    package static func removeTree(_ path: String) {
        if unlink(path) == 0 || errno != EISDIR && errno != EPERM { return }
        for name in (try? list(path)) ?? [] { removeTree("\(path)/\(name)") }
        rmdir(path)
    }
}

/// When a file was last read, as the host keeps it.
package enum AccessTime {
    /// A time that any read makes newer, with relatime too.
    private static let old = 1_000_000_000

    /// UTIME_OMIT, which Swift cannot see.
    private static let unchanged = (1 << 30) - 2

    /// Sets the access time of the file at `path` to long ago.
    package static func makeOld(_ path: String) throws {
        let times = [timespec(tv_sec: old, tv_nsec: 5), timespec(tv_sec: 0, tv_nsec: unchanged)]
        guard utimensat(AT_FDCWD, path, times, 0) == 0 else { throw HostFailure("cannot set the times of \(path)") }
    }

    /// Whether nobody has read the file since.
    package static func isOld(_ path: String) -> Bool {
        var facts = stat()
        return stat(path, &facts) == 0 && facts.st_atim.tv_sec == old && facts.st_atim.tv_nsec == 5
    }

    /// Whether the filesystem of the test directories notes reads at all.
    package static let isKept: Bool = {
        guard let directory = try? TemporaryDirectory("atime"), let path = try? directory.write([1], to: "file"),
            (try? makeOld(path)) != nil, (try? HostFiles.read(path)) != nil
        else { return false }
        return !isOld(path)
    }()
}
