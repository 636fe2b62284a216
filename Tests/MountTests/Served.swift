internal import CLinux
internal import Glibc
internal import Testing
internal import TestSupport

/// Whether real mounts can be made here.
enum Fuse {
    /// True where they can, and where the environment says that they must: the tests fail then instead of being skipped.
    static let isUsable: Bool = {
        if getenv("PLATTER_REQUIRE_FUSE").map({ String(cString: $0) }) == "1" { return true }
        return access("/dev/fuse", R_OK | W_OK) == 0 && (geteuid() == 0 || Tool.has("fusermount3"))
    }()
    static let skipReason: Comment = "needs /dev/fuse and root or fusermount3"
    static let isRoot = geteuid() == 0
}

/// A mount that the built `platter` serves in the foreground, ended with the object.
final class Served {
    let mountpoint: String
    let process: ChildProcess
    private let directory: TemporaryDirectory
    private var device: UInt64 = 0
    private var isEnded = false

    /// The program beside the test bundle.
    static let program: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count)
        let path = String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let beside = path.split(separator: "/").dropLast().joined(separator: "/")
        let candidate = "/" + beside + "/platter"
        return HostFiles.exists(candidate) ? candidate : SharedImages.packageRoot + "/.build/debug/platter"
    }()

    /// Serves `source` with `options` on a new directory, or on the regular file `onFile` made in it. Throws with what the
    /// program said when it does not come to serve.
    convenience init(_ source: String, _ options: String..., onFile: Bool = false) throws {
        try self.init(source, list: options, onFile: onFile, writes: false)
    }

    /// The same for writing (`-w`).
    static func writable(_ source: String, _ options: String..., onFile: Bool = false) throws -> Served {
        try Served(source, list: options, onFile: onFile, writes: true)
    }

    private init(_ source: String, list options: [String], onFile: Bool, writes: Bool) throws {
        directory = try TemporaryDirectory("mount")
        mountpoint = directory.file("point")
        if onFile {
            try HostFiles.write([], to: mountpoint)
        } else {
            guard mkdir(mountpoint, 0o755) == 0 else { throw HostFailure("cannot make \(mountpoint)") }
        }
        let list = options.isEmpty ? [] : ["-o", options.joined(separator: ",")]
        process = try ChildProcess(
            Self.program, ["mount", "-f"] + (writes ? ["-w"] : []) + [source, mountpoint] + list)
        try waitUntilServed()
    }

    deinit { end() }

    /// The path of `name` in the mount.
    func path(_ name: String) -> String { "\(mountpoint)/\(name)" }

    private func waitUntilServed() throws {
        let deadline = monotonicSeconds() + 20
        var facts = clinux_file_facts()
        while monotonicSeconds() < deadline {
            if clinux_is_mount_root(mountpoint) == 1, clinux_facts_at(AT_FDCWD, mountpoint, 1, &facts) == 0 {
                device = facts.device
                return
            }
            guard process.isRunning else { throw HostFailure("\(process.wait(timeout: 1))", errno: 0) }
            usleep(5000)
        }
        throw HostFailure("the mount did not come", errno: 0)
    }

    /// Whether the process ends within `seconds`.
    func ends(within seconds: Double) -> Bool {
        let deadline = monotonicSeconds() + seconds
        while process.isRunning, monotonicSeconds() < deadline { usleep(5000) }
        return !process.isRunning
    }

    /// Unmounts by umount(2) as soon as nothing is uncommitted any more, waits for the server, and gives its exit status.
    func unmount() throws -> Int32 {
        let deadline = monotonicSeconds() + 20
        while umount2(mountpoint, 0) != 0 {
            guard errno == EBUSY, monotonicSeconds() < deadline else { throw HostFailure("umount \(mountpoint)") }
            usleep(2000)
        }
        isEnded = true
        guard ends(within: 20) else { throw HostFailure("the server goes on", errno: 0) }
        return process.wait(timeout: 1).status
    }

    /// Unmounts; a mount that does not end is aborted by the number of its own connection.
    func end() {
        guard !isEnded else { return }
        isEnded = true
        process.signal(SIGTERM)
        if !ends(within: 5) {
            let descriptor = clinux_abort_descriptor(device)
            if descriptor >= 0 {
                _ = write(descriptor, "1", 1)
                close(descriptor)
            }
        }
        process.stop(SIGKILL)
        var now: UInt64 = 0
        if device != 0, clinux_mount_device(mountpoint, &now) == 0, now == device {
            _ = try? run("umount", "-l", mountpoint, timeout: 10)
        }
    }
}

/// Facts and bytes as a program sees them.
enum Seen {
    /// stat(2) without following links.
    static func facts(_ path: String) throws -> clinux_file_facts {
        var facts = clinux_file_facts()
        guard clinux_facts_at(AT_FDCWD, path, 1, &facts) == 0 else { throw HostFailure("stat \(path)") }
        return facts
    }

    /// errno of a call that shall fail, or 0.
    static func failure(_ call: () -> Int32) -> Int32 {
        let result = call()
        guard result < 0 else {
            return 0
        }
        return errno
    }

    /// errno of opening `path` with `flags`, or 0.
    static func openFailure(_ path: String, _ flags: Int32) -> Int32 {
        let descriptor = open(path, flags)
        guard descriptor >= 0 else { return errno }
        close(descriptor)
        return 0
    }

    /// `count` bytes of `path` from `offset` on, in one pread(2).
    static func bytes(_ descriptor: Int32, _ offset: Int, _ count: Int) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0xA5, count: count)
        let got = pread(descriptor, &buffer, count, off_t(offset))
        guard got >= 0 else { throw HostFailure("pread") }
        return Array(buffer.prefix(got))
    }

    /// Asks until it holds, for at most `seconds`.
    static func soon(within seconds: Double = 3, _ condition: () throws -> Bool) rethrows -> Bool {
        let deadline = monotonicSeconds() + seconds
        while monotonicSeconds() < deadline {
            if try condition() { return true }
            usleep(10_000)
        }
        return try condition()
    }
}

/// Bytes for tests, made quickly.
enum Content {
    /// `count` bytes (a multiple of 8) of the sequence of `seed`.
    static func random(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = SeededRandom(seed: seed)
        let words = (0..<(count / 8)).map { _ in random.next() }
        return words.withUnsafeBytes { Array($0) }
    }

    /// Whether `buffer` begins with `content[offset..<(offset + count)]`.
    static func isEqual(_ buffer: UnsafeRawPointer, _ content: [UInt8], at offset: Int, count: Int) -> Bool {
        content.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, offset + count <= bytes.count else { return false }
            return memcmp(buffer, base + offset, count) == 0
        }
    }
}
