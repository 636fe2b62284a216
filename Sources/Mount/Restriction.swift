internal import CLinux
internal import Disk
internal import Glibc
internal import Logging

/// What the process gives up before it serves: it reads strangers' images, so it keeps only what reading them needs.
///
/// A kernel without one of these is no reason not to serve: each failure is a line for debugging.
struct Restriction {
    private let options: MountOptions
    private let log: Logger

    init(_ options: MountOptions, _ log: Logger) {
        self.options = options
        self.log = log
    }

    /// Applies everything to the calling thread and all threads that it starts later.
    func apply() {
        report("no_new_privs", clinux_no_new_privileges())
        if geteuid() == 0 { report("capabilities", clinux_drop_capabilities(opensForWriting ? 1 : 0)) }
        report("Landlock", landlock())
        report("seccomp", clinux_seccomp())
    }

    /// Whether images are still to be opened for writing: the one of image mode is open already.
    private var opensForWriting: Bool { options.isWritable && options.isDirectoryMode }

    private func report(_ what: String, _ result: Int32) {
        if result < 0 { log.debug("\(what) is not in force: \(String(cString: strerror(errno)))") }
    }

    /// Reading is allowed below the source, the allowed parents, and what the C library and the log need.
    private func landlock() -> Int32 {
        let source = options.isDirectoryMode ? options.source : parent(of: options.source)
        let readable =
            [source, parent(of: resolved(options.source))] + options.disk.allowedParents
            + options.disk.parents.compactMap { $0 }.flatMap { [parent(of: $0), parent(of: resolved($0))] }
            + [
                "/proc", "/sys/block", "/sys/devices/virtual/block", "/etc/localtime", "/usr/share/zoneinfo",
                "/dev/urandom",
            ]
        let writable = options.writablePaths + ["/dev/null", "/dev/log", "/dev/fuse"]
        // Images, and data files that they name; nothing is ever made or removed.
        let changeable =
            opensForWriting ? [options.source, resolved(options.source)] + options.disk.allowedParents : []
        return withStrings(readable) { readable in
            withStrings(changeable) { changeable in
                withStrings(writable) { writable in clinux_landlock(readable, changeable, writable) }
            }
        }
    }

    private func resolved(_ path: String) -> String {
        guard let real = realpath(path, nil) else { return path }
        defer { free(real) }
        return String(cString: real)
    }

    private func parent(of path: String) -> String {
        let parts = path.split(separator: "/").dropLast()
        return "/" + parts.joined(separator: "/")
    }

    private func withStrings(
        _ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Int32
    ) -> Int32 {
        var copies: [UnsafePointer<CChar>?] = strings.map { strdup($0).map { UnsafePointer($0) } }
        defer { for copy in copies { free(UnsafeMutableRawPointer(mutating: copy)) } }
        copies.append(nil)
        return copies.withUnsafeBufferPointer { buffer in buffer.baseAddress.map(body) ?? -1 }
    }
}
