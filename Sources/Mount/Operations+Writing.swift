internal import Bytes
internal import CFuse3
internal import CLinux
internal import Glibc
internal import Logging
internal import Storage

extension Operations {
    /// Fills in what a writable mount answers. Names cannot be made, changed or removed in it.
    static func acceptWriting(_ table: inout fuse_lowlevel_ops) {
        table.write = onWrite
        table.fallocate = onAllocate
        table.setattr = onSetAttributes
        table.mknod = { request, _, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.mkdir = { request, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.unlink = { request, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.rmdir = { request, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.symlink = { request, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.rename = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.link = { request, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.create = { request, _, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        // No getxattr: the kernel would ask for one before each write.
        table.setxattr = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EPERM) }
        table.removexattr = { request, _, _ in clinux_fuse_reply_err(request, EPERM) }
    }

    /// Finds the open file behind a request, without counting a reference to it; EBADF where there is none.
    static func withFile(
        _ request: fuse_req_t?, _ info: UnsafeMutablePointer<fuse_file_info>?, _ body: (OpenFile) -> Void
    ) {
        guard let pointer = handle(info) else {
            clinux_fuse_reply_err(request, EBADF)
            return
        }
        Unmanaged<OpenFile>.fromOpaque(pointer)._withUnsafeGuaranteedRef(body)
    }

    /// One line about a request with `-d`.
    static func log(
        _ request: fuse_req_t?, _ operation: StaticString, _ node: fuse_ino_t, _ length: Int = 0, at offset: off_t = 0
    ) {
        _ = withSystem(request) { system in
            guard system.context.options.debug else { return }
            system.context.log.debug("\(operation) node \(node), \(length.counted("byte")) at \(offset)")
        }
    }
}

func onWrite(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ bytes: UnsafePointer<CChar>?, _ count: Int, _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    Operations.log(request, "WRITE", node, count, at: offset)
    // O_SYNC has the bit of O_DSYNC too.
    let isSynchronous = info.map { $0.pointee.flags & O_DSYNC != 0 } ?? false
    Operations.withFile(request, info) {
        $0.answerWrite(
            request, UnsafeRawBufferPointer(start: bytes, count: count), offset: offset, isSynchronous: isSynchronous)
    }
}

func onAllocate(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ mode: Int32, _ offset: off_t, _ length: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    Operations.log(request, "FALLOCATE", node, Int(length), at: offset)
    Operations.withFile(request, info) {
        $0.answerAllocate(request, mode: mode, offset: offset, length: length)
    }
}

func onFlush(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    Operations.log(request, "FLUSH", node)
    Operations.withFile(request, info) { $0.answerFlush(request) }
}

/// Never ENOSYS: the kernel would let every later fsync succeed without asking.
func onSynchronise(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ dataOnly: Int32, _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    Operations.log(request, "FSYNC", node)
    Operations.withFile(request, info) { $0.answerSynchronise(request) }
}

/// An fsync of a directory, the mountpoint for one, commits every image of the mount.
func onSynchroniseDirectory(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ dataOnly: Int32, _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    Operations.answer(request, "FSYNCDIR", node) { (system) throws(ImageError) in
        do throws(ImageError) { try system.context.keeper.commitAll() } catch {
            clinux_fuse_reply_err(request, error.errorNumberOfWriting)
            return
        }
        clinux_fuse_reply_err(request, 0)
    }
}

func onSetAttributes(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ wanted: UnsafeMutablePointer<stat>?, _ valid: Int32,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    Operations.answer(request, "SETATTR", node) { (system) throws(ImageError) in
        let setsSize = clinux_fuse_sets_size(valid) != 0
        let size: UInt64? = setsSize ? wanted.map { UInt64(max(0, $0.pointee.st_size)) } : nil
        let onlyTimes = clinux_fuse_sets_owner_or_mode(valid) == 0
        var (attributes, timeout) = try system.change(node, size: size, onlyTimes: onlyTimes)
        clinux_fuse_reply_attr(request, &attributes, timeout)
    }
}
