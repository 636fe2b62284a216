internal import CLinux
internal import Glibc

/// A directory below which files are opened, and never outside it.
package final class Directory: Sendable {
    /// Where it is, without symbolic links.
    package let path: String

    private let descriptor: Int32

    /// Opens the directory at `path`; with `withoutLinks` that is absolute, and a symbolic link anywhere in it is an error,
    /// since it was not there when the path was found. Throws `.missing`, `.denied` or `.io`.
    package init(path: String, withoutLinks: Bool = false) throws(ImageError) {
        do throws(ImageError) {
            descriptor = try syscall("cannot open the directory") {
                clinux_open_directory(path, withoutLinks ? 1 : 0)
            }
        } catch { throw error.named(path) }
        self.path = withoutLinks ? path : HostPath.real(path) ?? HostPath.absolute(path)
    }

    deinit { Glibc.close(descriptor) }

    /// Opens the regular file `relative` for reading, or, where it `admitsDevices`, the block device. No symbolic link and
    /// no `..` on the way can lead outside this directory: that throws `.denied` with EXDEV or ELOOP. Throws also
    /// `.missing`, `.denied`, `.unsupported` for what is neither, and `.io`.
    package func openFile(
        beneath relative: String, isWritable: Bool = false, admitsDevices: Bool = false
    ) throws(ImageError) -> FileStorage {
        let name = path == "/" ? "/" + relative : "\(path)/\(relative)"
        let flags = (isWritable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY
        let isAmongDevices = admitsDevices || path == "/dev" || path.hasPrefix("/dev/")
        var attempts = 0
        while true {
            do throws(ImageError) {
                let file = try syscall("cannot open the file") {
                    isAmongDevices
                        ? clinux_open_device_beneath(descriptor, relative, flags)
                        : clinux_open_beneath(descriptor, relative, flags)
                }
                return try FileStorage(owning: file, name: name, regularOnly: !admitsDevices, isWritable: isWritable)
            } catch {
                if error.errno == ENODEV, isAmongDevices {
                    throw ImageError(.unsupported, "is neither a regular file nor a block device", file: name)
                }
                // The kernel gives EAGAIN when something on the way was renamed meanwhile and it cannot be sure.
                attempts += 1
                guard error.errno == EAGAIN, attempts < 16 else { throw error.named(name) }
            }
        }
    }

    /// Calls `body` with every name in the directory `relative` ("." for this one) and whether it is known to be a
    /// directory, and returns how many there were: at most `limit`. Names that are not UTF-8 are left out, and what cannot
    /// be read counts as empty. With `staysOnFilesystem` nothing that is mounted below is looked at, so that no automatic
    /// mount is set off.
    package func visitNames(
        beneath relative: String, limit: Int, staysOnFilesystem: Bool, _ body: (String, Bool) -> Void
    ) -> Int {
        let folder = clinux_open_folder_beneath(descriptor, relative, staysOnFilesystem ? 1 : 0)
        guard folder >= 0 else { return 0 }
        guard let stream = fdopendir(folder) else {
            Glibc.close(folder)
            return 0
        }
        defer { closedir(stream) }
        var count = 0
        while count < limit, let entry = readdir(stream) {
            count += 1
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(validatingCString: $0) }
            }
            if let name, name != ".", name != ".." { body(name, entry.pointee.d_type == UInt8(DT_DIR)) }
        }
        return count
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
    /// What is wrong with a directory in the place of an image.
    package static let directory = ImageError(.unsupported, "is a directory, not an image", errno: EISDIR)

    /// Whether the error is that one, or the kernel's own word for it.
    package var isAboutDirectory: Bool { errno == EISDIR }

    /// Whether this is a file that exists nowhere below the directory because the way to it leads outside.
    package var leadsOutside: Bool { kind == .denied && (errno == EXDEV || errno == ELOOP) }
}
