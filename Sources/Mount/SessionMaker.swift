internal import CLinux
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// Makes libfuse's session and mounts it: as root with mount(2), otherwise through fusermount3.
struct SessionMaker {
    private let options: MountOptions

    init(_ options: MountOptions) { self.options = options }

    /// A mounted session that carries `system`, which must outlive it. Throws `.io` or `.denied`.
    func make(_ system: FileSystem) throws(ImageError) -> SessionHandle {
        FuseMessages.collect()
        if let wanted = options.allowOther {
            return try make(system, allowOther: wanted)
        }
        do throws(ImageError) {
            guard Self.mayAllowOther() else { throw ImageError(.denied, "user_allow_other is not set") }
            return try make(system, allowOther: true)
        } catch {
            let session = try make(system, allowOther: false)
            options.log.notice(
                "only you can use the mount (root, losetup and mount -o loop cannot); for more, enable user_allow_other in /etc/fuse.conf"
            )
            return session
        }
    }

    /// Whether allow_other is worth trying: fusermount3 would complain on standard error.
    private static func mayAllowOther() -> Bool {
        if geteuid() == 0 { return true }
        guard let file = fopen("/etc/fuse.conf", "re") else { return false }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
            if text.split(whereSeparator: { $0 <= 0x20 }).first?.elementsEqual("user_allow_other".utf8) == true {
                return true
            }
        }
        return false
    }

    private func make(_ system: FileSystem, allowOther: Bool) throws(ImageError) -> SessionHandle {
        var callbacks = Operations.table(isWritable: options.isWritable)
        let session = clinux_fuse_session_new(
            optionText(allowOther: allowOther), &callbacks, Unmanaged.passUnretained(system).toOpaque())
        guard let session else { throw failure("cannot prepare the mount", EINVAL) }
        let (code, words) = Self.listening { clinux_fuse_session_mount(session, options.mountpoint) == 0 }
        guard code == 0 else {
            clinux_fuse_session_destroy(session)
            throw failure("cannot mount", code, words)
        }
        if let words { options.log.debug("\(words)") }
        system.context.isShared.store(allowOther, ordering: .relaxed)
        FuseMessages.pass(to: options.log)
        return SessionHandle(pointer: session)
    }

    private func failure(_ what: StaticString, _ code: Int32, _ words: String? = nil) -> ImageError {
        let detail = [words, FuseMessages.taken()].compactMap { $0 }.joined(separator: "; ")
        return ImageError(
            .io, what, errno: code, detail: detail.isEmpty ? nil : detail, file: options.mountpoint)
    }

    /// Runs `body` and returns 0 or its error number, and what was written to standard error meanwhile: fusermount3 says
    /// there why it refuses, and the user is to get one line. For a process with one thread.
    private static func listening(_ body: () -> Bool) -> (code: Int32, words: String?) {
        let (paper, real) = (clinux_zero_file(0), dup(STDERR_FILENO))
        defer { for descriptor in [paper, real] where descriptor >= 0 { close(descriptor) } }
        let isListening = paper >= 0 && real >= 0 && dup2(paper, STDERR_FILENO) >= 0
        errno = 0
        let isDone = body()
        let code = isDone ? 0 : errno == 0 ? EPERM : errno
        guard isListening else { return (code, nil) }
        dup2(real, STDERR_FILENO)
        var buffer = [UInt8](repeating: 0, count: 1024)
        let count = max(0, pread(paper, &buffer, buffer.count, 0))
        let lines = String(decoding: buffer[..<count], as: UTF8.self).split(separator: "\n")
        return (code, lines.isEmpty ? nil : lines.joined(separator: "; "))
    }

    /// The options as mount(8) knows them; commas and backslashes in names are escaped.
    private func optionText(allowOther: Bool) -> String {
        var list = [options.isWritable ? "rw" : "ro", "default_permissions", "subtype=platter"]
        if allowOther { list.append("allow_other") }
        list += options.kernelMountOptions.filter { $0 != "ro" && $0 != "rw" }
        list.append("fsname=" + escaped(options.fsname ?? options.source))
        return list.joined(separator: ",")
    }

    private func escaped(_ text: String) -> String {
        var result = ""
        for character in text.unicodeScalars {
            if character == "," || character == "\\" { result += "\\" }
            result.unicodeScalars.append(character)
        }
        return result
    }
}

/// What libfuse has to say: its last lines, for the error that follows them.
enum FuseMessages {
    private static let lines = Mutex<[String]>([])
    private static let log = Mutex<Logger?>(nil)

    /// Sends all further messages to the log.
    static func pass(to log: Logger) { self.log.withLock { $0 = log } }

    /// Sends libfuse's messages here instead of to standard error.
    static func collect() {
        clinux_fuse_log_to { line in
            guard let line else { return }
            FuseMessages.add(String(cString: line))
        }
    }

    private static func add(_ line: String) {
        if let log = log.withLock({ $0 }) {
            log.warning("\(line)")
            return
        }
        lines.withLock { $0 = $0.suffix(4) + [line] }
    }

    /// The lines since the last call, or nil.
    static func taken() -> String? {
        lines.withLock { lines in
            defer { lines = [] }
            return lines.isEmpty ? nil : lines.joined(separator: "; ")
        }
    }
}
