internal import Glibc

/// What a server notes about its mount while it runs: mountinfo tells source and mountpoint, but not the process.
struct RuntimeEntry: Equatable, Sendable {
    /// The server.
    var pid: Int32
    /// When it started, in clock ticks since boot: a reused process id has another one.
    var startTime: UInt64
    /// The st_dev of the mount. A new mount may get the number of one whose server is still about to end.
    var device: MountEntry.Device
    /// When the note was written, in nanoseconds of the monotonic clock: of two with one device the later one is right.
    var noted: UInt64

    /// What is served and where, as bytes; nil in notes of versions that did not say.
    var place: Place?

    /// What a server says about its mount besides.
    struct Place: Equatable, Sendable {
        /// The absolute path of the image or directory.
        var source: [UInt8]
        /// Where it was mounted.
        var mountpoint: [UInt8]
        /// "ro", "rw", or "overlay" where writes go into another file.
        var mode: String
        /// The file that takes the writes; nil where there is none, or it is a temporary one.
        var overlay: [UInt8]?
    }

    /// The file that it was read from.
    var path = ""

    /// The user whose server wrote it.
    var owner: UInt32 = 0

    /// The text of the file: one fact a line.
    var text: String {
        var text = "pid \(pid)\nstart \(startTime)\ndevice \(device)\nnoted \(noted)\n"
        guard let place else { return text }
        text += "source \(Self.encoded(place.source))\nmountpoint \(Self.encoded(place.mountpoint))\n"
        text += "mode \(place.mode)\n"
        if let overlay = place.overlay { text += "overlay \(Self.encoded(overlay))\n" }
        return text
    }

    init(
        pid: Int32, startTime: UInt64, device: MountEntry.Device, noted: UInt64, place: Place? = nil
    ) {
        self.place = place
        self.pid = pid
        self.startTime = startTime
        self.device = device
        self.noted = noted
    }

    /// Reads what `text` wrote; unknown lines are left to other versions.
    init?(_ text: String) {
        var facts: [Substring: Substring] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1)
            if parts.count == 2 { facts[parts[0]] = parts[1] }
        }
        guard let pid = facts["pid"].flatMap({ Int32($0) }), pid > 1,
            let start = facts["start"].flatMap({ UInt64($0) }),
            let device = facts["device"].flatMap({ MountEntry.Device(String($0)) })
        else { return nil }
        let noted = facts["noted"].flatMap { UInt64($0) } ?? 0
        var place: Place?
        if let source = facts["source"], let mountpoint = facts["mountpoint"], let mode = facts["mode"] {
            place = Place(
                source: Self.decoded(source), mountpoint: Self.decoded(mountpoint), mode: String(mode),
                overlay: facts["overlay"].map(Self.decoded))
        }
        self.init(pid: pid, startTime: start, device: device, noted: noted, place: place)
    }

    /// A name on one line of ASCII, as mountinfo has it: a backslash and three octal digits for every other byte.
    private static func encoded(_ name: [UInt8]) -> String {
        var result = ""
        for byte in name {
            if (0x21...0x7E).contains(byte), byte != UInt8(ascii: "\\") {
                result.unicodeScalars.append(UnicodeScalar(byte))
            } else {
                let digits = String(byte, radix: 8)
                result += "\\" + String(repeating: "0", count: 3 - digits.count) + digits
            }
        }
        return result
    }

    private static func decoded(_ text: Substring) -> [UInt8] { MountEntry.decoded(Array(text.utf8)) }

    /// Whether it is about this mount: who says that they serve it must be who mounted it.
    func serves(_ mount: MountEntry) -> Bool { device == mount.device && mount.has("user_id=\(owner)") }

    /// Whether the process that wrote it still runs.
    var isAlive: Bool { RuntimeDirectory.startTime(of: pid) == startTime }
}

/// The directory with one small file for each running server: /run/platter for root, $XDG_RUNTIME_DIR/platter or
/// /run/user/UID/platter for others. Without one, `list` knows the mounts but not their processes.
enum RuntimeDirectory {
    /// Where this user's servers leave their notes; nil where there is no place.
    static var own: String? {
        if geteuid() == 0 { return "/run/platter" }
        let user = "/run/user/\(geteuid())"
        let candidates = [getenv("XDG_RUNTIME_DIR").map { String(cString: $0) }, user]
        return candidates.compactMap { $0 }.first { access($0, W_OK) == 0 }.map { $0 + "/platter" }
    }

    /// This user's directory, made if need be, so that it can be named before the process gives up its privileges.
    static func prepared() -> String? {
        guard let directory = own else { return nil }
        return mkdir(directory, 0o755) == 0 || errno == EEXIST ? directory : nil
    }

    /// Notes that this process serves the mount on `device`, and returns the file to remove at the end.
    static func note(device: MountEntry.Device, place: RuntimeEntry.Place) -> String? {
        guard let directory = prepared(), let start = startTime(of: getpid()) else { return nil }
        let path = "\(directory)/\(getpid())"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o644)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        let noted = UInt64(Clock.now() * 1e9)
        let entry = RuntimeEntry(pid: getpid(), startTime: start, device: device, noted: noted, place: place)
        return Output.write(entry.text, to: descriptor) ? path : nil
    }

    /// The notes of servers that still run, the latest first: this user's, and for root those of everybody. Notes that
    /// a killed server of this user left are removed.
    static func entries() -> [RuntimeEntry] {
        var directories = [own].compactMap { $0 }.map { ($0, geteuid()) }
        if geteuid() != 0 { directories.append(("/run/platter", 0)) }
        if geteuid() == 0 {
            for name in HostPath.names(in: "/run/user") {
                if let user = UInt32(name), user != 0 { directories.append(("/run/user/\(name)/platter", user)) }
            }
        }
        var result: [RuntimeEntry] = []
        for (directory, owner) in directories {
            for name in HostPath.names(in: directory) {
                let path = "\(directory)/\(name)"
                guard let text = text(at: path, of: owner), var entry = RuntimeEntry(text), entry.isAlive else {
                    if directory == own, Int32(name) != nil { unlink(path) }
                    continue
                }
                // What somebody says of a process of somebody else.
                guard owner == 0 || user(of: entry.pid) == owner else { continue }
                (entry.path, entry.owner) = (path, owner)
                result.append(entry)
            }
        }
        return latestFirst(result)
    }

    /// The text of a note in a directory of `owner`, who may have put anything there: only what is a file of theirs is read,
    /// through no link, and without waiting for a pipe.
    private static func text(at path: String, of owner: UInt32) -> String? {
        guard let slash = path.lastIndex(of: "/") else { return nil }
        let directory = open(String(path[..<slash]), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard directory >= 0 else { return nil }
        defer { close(directory) }
        let name = String(path[path.index(after: slash)...])
        let file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        for descriptor in [directory, file] {
            var facts = stat()
            guard fstat(descriptor, &facts) == 0, facts.st_uid == owner else { return nil }
            guard descriptor == directory || facts.st_mode & S_IFMT == S_IFREG else { return nil }
        }
        return HostPath.contents(of: file, limit: 65536).map { String(decoding: $0, as: UTF8.self) }
    }

    /// The user as whom a process runs; nil when there is none.
    private static func user(of pid: Int32) -> UInt32? {
        let bytes = HostPath.contents("/proc/\(pid)/status", limit: 4096) ?? []
        let lines = bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
        let fields = lines.first { $0.hasPrefix("Uid:") }?.split(separator: "\t") ?? []
        return fields.count > 2 ? UInt32(fields[2]) : nil
    }

    /// Leaves word, in a note of this process, for whoever waits for its end: what was written last could not be saved.
    static func leave(failure: String, at path: String) {
        let descriptor = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        _ = Output.write("failed \(Printable.line(failure))\n", to: descriptor)
    }

    /// The word that a server, which has ended, left about its last commit, which is then forgotten; nil when all was
    /// well, or nobody knows.
    static func takeFailure(of entry: RuntimeEntry) -> String? {
        guard let text = text(at: entry.path, of: entry.owner) else { return nil }
        guard RuntimeEntry(text)?.startTime == entry.startTime else { return nil }
        // In another's directory the path may lead elsewhere by now. They tidy up themselves.
        if entry.owner == geteuid() { unlink(entry.path) }
        let line = text.split(separator: "\n").first { $0.hasPrefix("failed ") }
        return line.map { String($0.dropFirst("failed ".count)) }
    }

    /// Entries in the order in which a device is to be looked up in them.
    static func latestFirst(_ entries: [RuntimeEntry]) -> [RuntimeEntry] {
        entries.sorted { $0.noted > $1.noted }
    }

    /// When a process that runs started, in clock ticks since boot; nil when there is none.
    static func startTime(of pid: Int32) -> UInt64? {
        HostPath.contents("/proc/\(pid)/stat", limit: 4096).flatMap(startTime(inStat:))
    }

    /// Field 22 of /proc/PID/stat; nil where field 3 says that the process has ended (Z, and X, and x before Linux 3.14): only
    /// its parent, which has not asked for its status, keeps it there.
    static func startTime(inStat bytes: [UInt8]) -> UInt64? {
        guard let end = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
        let fields = bytes[(end + 1)...].split(separator: UInt8(ascii: " "))
        guard fields.count > 19, !["Z", "X", "x"].contains(String(decoding: fields[0], as: UTF8.self)) else {
            return nil
        }
        return UInt64(String(decoding: fields[19], as: UTF8.self))
    }
}
