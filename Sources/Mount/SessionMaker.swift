internal import CFuse3
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
        var callbacks = Operations.table()
        let arguments = ["platter", "-o", optionText(allowOther: allowOther)].map { (text: String) in strdup(text) }
        defer { for argument in arguments { free(argument) } }
        var vector = arguments + [nil]
        let session = vector.withUnsafeMutableBufferPointer { vector in
            var list = fuse_args(argc: Int32(arguments.count), argv: vector.baseAddress, allocated: 0)
            defer { fuse_opt_free_args(&list) }
            return fuse_session_new(
                &list, &callbacks, MemoryLayout<fuse_lowlevel_ops>.size, Unmanaged.passUnretained(system).toOpaque())
        }
        guard let session else { throw failure("cannot prepare the mount", EINVAL) }
        guard fuse_session_mount(session, options.mountpoint) == 0 else {
            let code = errno
            fuse_session_destroy(session)
            throw failure("cannot mount", code == 0 ? EPERM : code)
        }
        return SessionHandle(pointer: session)
    }

    private func failure(_ what: StaticString, _ code: Int32) -> ImageError {
        ImageError(.io, what, errno: code, detail: FuseMessages.taken(), file: options.mountpoint)
    }

    /// The options as mount(8) knows them; commas and backslashes in names are escaped.
    private func optionText(allowOther: Bool) -> String {
        var list = ["ro", "default_permissions", "subtype=platter"]
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

    /// Sends libfuse's messages here instead of to standard error.
    static func collect() {
        clinux_fuse_log_to { line in
            guard let line else { return }
            FuseMessages.add(String(cString: line))
        }
    }

    private static func add(_ line: String) {
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
