internal import Glibc

/// Paths on the host.
enum HostPath {
    /// The absolute path of something that exists, without symbolic links. Throws a usage failure that names it.
    static func existing(_ path: String, _ status: ExitStatus = .usage) throws(Failure) -> String {
        guard let resolved = realpath(path, nil) else {
            throw Failure(status, "\(path): \(reason(errno))")
        }
        defer { free(resolved) }
        guard let text = String(validatingCString: resolved) else {
            throw Failure(status, "\(path): its real path is not UTF-8; move it, or mount the directory above")
        }
        return text
    }

    /// Returns whether there is anything at `path`, a link that leads nowhere included.
    static func exists(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0
    }

    /// The absolute path of `path`, whose last part need not exist and is not followed.
    static func absolute(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        guard let directory = getcwd(nil, 0) else { return path }
        defer { free(directory) }
        return String(cString: directory) + "/" + path
    }

    /// The words of the system for an error number.
    static func reason(_ code: Int32) -> String {
        String(cString: strerror(code)).lowercased()
    }

    /// The bytes of a small file, such as those of /proc; nil with errno when it cannot be read.
    static func contents(_ path: String, limit: Int = 16 << 20) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        return contents(of: descriptor, limit: limit)
    }

    /// The bytes of a small file that is open; nil with errno when it cannot be read.
    static func contents(of descriptor: Int32, limit: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while bytes.count < limit {
            let count = read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            bytes += buffer[..<count]
        }
        return bytes
    }

    /// The target of a symbolic link, as bytes; nil with errno when there is none.
    static func linkTarget(_ path: String) -> [UInt8]? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink(path, &buffer, buffer.count)
        guard count >= 0 else { return nil }
        return buffer.prefix(count).map { UInt8(bitPattern: $0) }
    }

    /// The names in a directory, without "." and ".."; empty when it cannot be read.
    static func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
