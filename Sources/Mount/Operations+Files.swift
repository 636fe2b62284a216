internal import CFuse3
internal import Glibc
internal import Logging
internal import Storage

func onOpen(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    Operations.answer(request, "OPEN", node) { (system) throws(ImageError) in
        guard let info else { throw ImageError(.io, "a request without a handle") }
        guard info.pointee.flags & (O_ACCMODE | O_TRUNC) == O_RDONLY else { throw .mountedForReading }
        let file = try system.open(node)
        info.pointee.keep_cache = file.keepsCache ? 1 : 0
        info.pointee.direct_io = file.disk == nil ? 1 : 0
        info.pointee.noflush = 1
        let handle = Unmanaged.passRetained(file)
        info.pointee.fh = UInt64(UInt(bitPattern: handle.toOpaque()))
        // A caller that went away meanwhile sends no RELEASE.
        if fuse_reply_open(request, info) != 0 { handle.release() }
    }
}

func onRelease(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    if let pointer = handle(info) { Unmanaged<OpenFile>.fromOpaque(pointer).release() }
    fuse_reply_err(request, 0)
}

/// The address in a file handle, which OPEN or OPENDIR put there.
func handle(_ info: UnsafeMutablePointer<fuse_file_info>?) -> UnsafeRawPointer? {
    info.flatMap { UnsafeRawPointer(bitPattern: UInt($0.pointee.fh)) }
}

func onRead(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int, _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let pointer = handle(info) else {
        fuse_reply_err(request, EBADF)
        return
    }
    logRead(request, node, size, offset)
    Unmanaged<OpenFile>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
        $0.answerRead(request, size: size, offset: offset)
    }
}

private func logRead(_ request: fuse_req_t?, _ node: fuse_ino_t, _ size: Int, _ offset: off_t) {
    _ = Operations.withSystem(request) { system in
        guard system.context.options.debug else { return }
        system.context.log.debug("READ node \(node), \(size) bytes at \(offset)")
    }
}

func onSeek(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ offset: off_t, _ whence: Int32,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let pointer = handle(info) else {
        fuse_reply_err(request, EBADF)
        return
    }
    let (data, hole): (Int32, Int32) = (3, 4)  // SEEK_DATA, SEEK_HOLE: lseek(2)
    guard whence == data || whence == hole else {
        fuse_reply_err(request, EINVAL)
        return
    }
    Unmanaged<OpenFile>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
        $0.answerSeek(request, offset: offset, findsData: whence == data)
    }
}

/// Nothing is ever unwritten here, so FLUSH and FSYNC succeed; ENOSYS would make the kernel never ask again.
func onFlush(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    fuse_reply_err(request, 0)
}

func onSynchronise(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ dataOnly: Int32, _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    fuse_reply_err(request, 0)
}

extension ImageError {
    /// What every change of anything in the mount answers.
    static var mountedForReading: ImageError { ImageError(.readOnly, "the mount is for reading only") }
}

extension Operations {
    /// Every call that would change something is answered with EROFS, also where the kernel refuses it first.
    static func refuseChanges(_ table: inout fuse_lowlevel_ops) {
        table.setattr = { request, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.mknod = { request, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.mkdir = { request, _, _, _ in fuse_reply_err(request, EROFS) }
        table.unlink = { request, _, _ in fuse_reply_err(request, EROFS) }
        table.rmdir = { request, _, _ in fuse_reply_err(request, EROFS) }
        table.symlink = { request, _, _, _ in fuse_reply_err(request, EROFS) }
        table.rename = { request, _, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.link = { request, _, _, _ in fuse_reply_err(request, EROFS) }
        table.create = { request, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.write = { request, _, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.fallocate = { request, _, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.setxattr = { request, _, _, _, _, _ in fuse_reply_err(request, EROFS) }
        table.removexattr = { request, _, _ in fuse_reply_err(request, EROFS) }
    }
}
