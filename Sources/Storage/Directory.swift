internal import CLinux
internal import Glibc

/// A directory below which files are opened, and never outside it.
package final class Directory: Sendable {
    /// Where it is, without symbolic links.
    package let path: String

    private let descriptor: Int32

    /// Opens the directory at `path`. Throws `.missing`, `.denied` or `.io`.
    package init(path: String) throws(ImageError) {
        do throws(ImageError) {
            descriptor = try syscall("cannot open the directory") {
                clinux_open_directory(path)
            }
        } catch { throw error.named(path) }
        self.path = HostPath.real(path) ?? HostPath.absolute(path)
    }

    deinit { Glibc.close(descriptor) }

    /// Opens the regular file `relative` for reading. No symbolic link and no `..` on the way can lead outside this
    /// directory: that throws `.denied` with EXDEV or ELOOP. Throws also `.missing`, `.denied`, `.unsupported` for what
    /// is no regular file, and `.io`.
    package func openFile(beneath relative: String, isWritable: Bool = false) throws(ImageError) -> FileStorage {
        let name = path == "/" ? "/" + relative : "\(path)/\(relative)"
        var attempts = 0
        while true {
            do throws(ImageError) {
                let file = try syscall("cannot open the file") {
                    clinux_open_beneath(
                        descriptor, relative, (isWritable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY)
                }
                return try FileStorage(owning: file, name: name, regularOnly: true, isWritable: isWritable)
            } catch {
                // The kernel gives EAGAIN when something on the way was renamed meanwhile and it cannot be sure.
                attempts += 1
                guard error.errno == EAGAIN, attempts < 16 else { throw error.named(name) }
            }
        }
    }
}

/// What the host knows about paths.
package enum HostPath {
    /// The path of the same file without symbolic links; nil where it does not exist or cannot be reached.
    package static func real(_ path: String) -> String? {
        guard let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    /// The path with the working directory before it where it is relative, otherwise as it is.
    package static func absolute(_ path: String) -> String {
        guard !path.hasPrefix("/"), let current = getcwd(nil, 0) else { return path }
        defer { free(current) }
        return "\(String(cString: current))/\(path)"
    }
}

extension ImageError {
    /// Whether this is a file that exists nowhere below the directory because the way to it leads outside.
    package var leadsOutside: Bool { kind == .denied && (errno == EXDEV || errno == ELOOP) }
}
