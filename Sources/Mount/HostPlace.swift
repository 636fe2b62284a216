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

    /// The place of `name` in this directory.
    func appending(_ name: Name) -> HostPlace {
        HostPlace(root: root, path: path == [UInt8(ascii: ".")] ? name : path + [UInt8(ascii: "/")] + name)
    }

    /// Opens it with the flags of open(2). Throws `.missing`, `.denied` or `.io`.
    func open(_ flags: Int32) throws(ImageError) -> Int32 {
        let descriptor = (path + [0]).withUnsafeBytes { bytes in
            clinux_open_beneath(root.descriptor, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), flags)
        }
        guard descriptor < 0 else { return descriptor }
        let code = errno
        switch code {
        case ENOENT, ENOTDIR: throw ImageError(.missing, "the file is gone", errno: ENOENT, file: text)
        case EXDEV, ELOOP:
            throw ImageError(.denied, "the link leads out of the directory", errno: EACCES, file: text)
        case EACCES, EPERM: throw ImageError(.denied, "the file cannot be opened", errno: EACCES, file: text)
        default: throw ImageError(.io, "cannot open the file", errno: code, file: text)
        }
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
