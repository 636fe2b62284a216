/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). Names are bytes: nobody promises UTF-8.
struct MountEntry: Equatable, Sendable {
    /// The filesystem's st_dev.
    var device: Device
    /// Where it is mounted.
    var mountpoint: [UInt8]
    /// "fuse.platter", "ext4".
    var type: [UInt8]
    /// For platter the absolute path of the image or directory.
    var source: [UInt8]
    /// The options of this mount and of the filesystem.
    var options: [[UInt8]]

    /// A device number by its two parts.
    struct Device: Hashable, Sendable, CustomStringConvertible {
        var major: UInt32
        var minor: UInt32

        var description: String { "\(major):\(minor)" }

        /// The number as st_dev has it (makedev(3)).
        var number: UInt64 {
            let (major, minor) = (UInt64(major), UInt64(minor))
            return (major & 0xFFFF_F000) << 32 | (major & 0xFFF) << 8 | (minor & 0xFFFF_FF00) << 12 | minor & 0xFF
        }

        /// Reads "0:57".
        init?(_ text: String) {
            let parts = text.split(separator: ":")
            guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else { return nil }
            (self.major, self.minor) = (major, minor)
        }
    }

    /// Reads one line; nil when it is not one of mountinfo.
    init?(_ line: some Sequence<UInt8>) {
        let fields = Array(line).split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map(Array.init)
        guard fields.count >= 10, let dash = fields[6...].firstIndex(of: [UInt8(ascii: "-")]), fields.count > dash + 3,
            let device = Device(String(decoding: fields[2], as: UTF8.self))
        else { return nil }
        self.device = device
        mountpoint = Self.decoded(fields[4])
        type = Self.decoded(fields[dash + 1])
        source = Self.decoded(fields[dash + 2])
        let comma = UInt8(ascii: ",")
        options = (fields[5].split(separator: comma) + fields[dash + 3].split(separator: comma)).map(Array.init)
    }

    /// Whether one of the options is `option`.
    func has(_ option: String) -> Bool { options.contains(Array(option.utf8)) }

    /// Whether platter serves it.
    var isPlatter: Bool { type == Array("fuse.platter".utf8) }

    /// Undoes the kernel's escapes: a backslash and three octal digits for space, tab, line end and backslash.
    static func decoded(_ text: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        var rest = text[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
            {
                result.append(value)
                rest = rest.dropFirst(3)
            } else {
                result.append(byte)
            }
        }
        return result
    }
}

/// The mounts that this process sees.
enum MountTable {
    /// Every mount, in the kernel's order: of two on one mountpoint the later one is on top.
    static func all() throws(Failure) -> [MountEntry] {
        guard let bytes = HostPath.contents("/proc/self/mountinfo", limit: 64 << 20) else {
            throw Failure(.system, "/proc/self/mountinfo: cannot be read; is /proc mounted?")
        }
        return entries(of: bytes)
    }

    /// The entries of mountinfo's text; lines that are none are left out.
    static func entries(of bytes: [UInt8]) -> [MountEntry] {
        bytes.split(separator: UInt8(ascii: "\n")).compactMap { MountEntry($0) }
    }

    /// The mounts of platter.
    static func platter() throws(Failure) -> [MountEntry] { try all().filter(\.isPlatter) }
}
