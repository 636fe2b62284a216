internal import CLinux
internal import Glibc
internal import Storage

/// Where a host file or directory is: a path below a directory that the mount keeps open.
///
/// Names stay bytes. Every access goes through openat2(2) beneath that directory, so that neither ".." nor a symbolic
/// link leads out of it.
struct HostPlace: Sendable {
    /// The directory that all paths are relative to.
    let root: HostRoot
    /// Relative to `root`, with slashes, never empty: "." is the root itself.
    let path: [UInt8]
    /// Where the file really is, for a symbolic link that has been followed; the path above is then its name.
    var target: Target?

    /// A file by the way to it without links.
    struct Target: Sendable {
        var root: HostRoot
        /// Relative to `root`.
        var path: [UInt8]
        /// The permission bits that the directories on the way to the file leave.
        var admitted: UInt32
    }

    /// The place of `name` in this directory.
    func appending(_ name: Name) -> HostPlace {
        HostPlace(root: root, path: path == [UInt8(ascii: ".")] ? name : path + [UInt8(ascii: "/")] + name)
    }

    /// Opens it with the flags of open(2). Throws `.missing`, `.denied` or `.io`.
    func open(_ flags: Int32) throws(ImageError) -> Int32 {
        let (root, path) = target.map { ($0.root, $0.path) } ?? (root, path)
        let descriptor = (path + [0]).withUnsafeBytes { bytes in
            clinux_open_beneath(root.descriptor, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), flags)
        }
        guard descriptor < 0 else { return descriptor }
        let code = errno
        switch code {
        case ENOENT, ENOTDIR: throw ImageError(.missing, "the file is gone", errno: ENOENT, file: text)
        case EXDEV, ELOOP:
            throw ImageError(.denied, "the link leads out of the directory", errno: EACCES, file: text)
        case EROFS: throw ImageError(.readOnly, "the file is on a filesystem mounted read-only", file: text)
        case EACCES, EPERM: throw ImageError(.denied, "the file cannot be opened", errno: EACCES, file: text)
        default: throw ImageError(.io, "cannot open the file", errno: code, file: text)
        }
    }

    /// The text of the symbolic link at this place; nil where there is none. The link is looked up beneath the directory
    /// like everything else, and read through its descriptor.
    var linkBytes: [UInt8]? {
        guard let descriptor = try? open(clinux_path_only | O_NOFOLLOW) else { return nil }
        defer { close(descriptor) }
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlinkat(descriptor, "", &buffer, buffer.count)
        guard count > 0 else { return nil }
        return buffer.prefix(count).map { UInt8(bitPattern: $0) }
    }

    /// The absolute path of the directory that this place lies in.
    var directoryBytes: [UInt8] {
        let slash = UInt8(ascii: "/")
        let parent = path.lastIndex(of: slash).map { Array(path[..<$0]) } ?? []
        let whole = root.path == "/" ? [] : Array(root.path.utf8)
        return parent.isEmpty ? whole : whole + [slash] + parent
    }

    /// The absolute path of an open file, without links; nil where the system cannot tell.
    static func realPath(of descriptor: Int32) -> [UInt8]? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/fd/\(descriptor)", &buffer, buffer.count)
        guard count > 0, count < buffer.count, buffer[0] == CChar(bitPattern: UInt8(ascii: "/")) else { return nil }
        return buffer.prefix(count).map { UInt8(bitPattern: $0) }
    }

    /// The directories, without links in them, that a name in the file is relative to: that of the file, and that of the
    /// link by which it was reached. Those whose names are no text are left out.
    var directories: [String] {
        let places = [target.map { ($0.root, $0.path) }, (root, path)].compactMap { $0 }
        var result: [String] = []
        for (root, path) in places {
            let parent = path.lastIndex(of: UInt8(ascii: "/")).map { path[..<$0] } ?? []
            guard let text = String(validating: parent, as: UTF8.self) else { continue }
            let directory = text.isEmpty ? root.path : root.path == "/" ? "/" + text : "\(root.path)/\(text)"
            if !result.contains(directory) { result.append(directory) }
        }
        return result
    }

    /// The facts of what is there now; a symbolic link is followed where it stays inside, or not at all. Throws like
    /// `open`.
    func facts(following: Bool = true) throws(ImageError) -> HostFacts {
        let descriptor = try open(following ? clinux_path_only : clinux_path_only | O_NOFOLLOW)
        defer { close(descriptor) }
        return try Self.facts(of: descriptor, text)
    }

    /// The facts behind a descriptor. Throws `.io`.
    static func facts(of descriptor: Int32, _ name: @autoclosure () -> String) throws(ImageError) -> HostFacts {
        var facts = clinux_file_facts()
        guard clinux_facts(descriptor, &facts) == 0 else {
            throw ImageError(.io, "cannot read the file's attributes", errno: errno, file: name())
        }
        return HostFacts(facts)
    }

    /// The full path for messages; bytes that are no text are replaced.
    var text: String { root.path + "/" + String(decoding: path, as: UTF8.self) }

    /// The full path, or nil where a Swift string cannot carry its bytes.
    var exactText: String? {
        guard let relative = String(validating: path, as: UTF8.self) else { return nil }
        return root.path + "/" + relative
    }
}

/// A host directory that stays open as long as somebody needs a place below it.
final class HostRoot: Sendable {
    let descriptor: Int32
    /// Its absolute path.
    let path: String

    /// Opens the directory at `path`. Throws `.missing`, `.denied` or `.io`.
    init(path: String) throws(ImageError) {
        self.path = path
        descriptor = clinux_open_at(AT_FDCWD, path, clinux_path_only | O_DIRECTORY)
        guard descriptor < 0 else { return }
        let code = errno
        throw ImageError(
            code == ENOENT ? .missing : code == EACCES ? .denied : .io, "cannot open the directory", errno: code,
            file: path)
    }

    deinit { close(descriptor) }
}
