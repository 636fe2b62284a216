internal import Bytes
internal import CFuse3
internal import CLinux
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

func onOpen(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    Operations.answer(request, "OPEN", node) { (system) throws(ImageError) in
        guard let info else { throw ImageError(.io, "a request without a handle") }
        let mode = OpenMode(info.pointee.flags, caller: request.map { clinux_fuse_caller($0) } ?? .max)
        let file = try system.open(node, mode)
        if mode.truncates { return try file.discard(request) { [file] request in answerOpen(request, file) } }
        answerOpen(request, file)
    }
}

private func answerOpen(_ request: fuse_req_t?, _ file: OpenFile) {
    let handle = Unmanaged.passRetained(file)
    let number = UInt64(UInt(bitPattern: handle.toOpaque()))
    guard clinux_fuse_reply_open(request, number, file.kernelFlags) != 0 else { return }
    // A caller that went away meanwhile sends no RELEASE, and the kernel has dropped no pages.
    file.role?.image.writing.changedAside.store(true, ordering: .relaxed)
    handle.release()
}

func onRelease(_ request: fuse_req_t?, _ node: fuse_ino_t, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    if let pointer = handle(info) { Unmanaged<OpenFile>.fromOpaque(pointer).release() }
    clinux_fuse_reply_err(request, 0)
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
        clinux_fuse_reply_err(request, EBADF)
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
        system.context.log.debug("READ node \(node), \(size.counted("byte")) at \(offset)")
    }
}

func onSeek(
    _ request: fuse_req_t?, _ node: fuse_ino_t, _ offset: off_t, _ whence: Int32,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let pointer = handle(info) else {
        clinux_fuse_reply_err(request, EBADF)
        return
    }
    let (data, hole): (Int32, Int32) = (3, 4)  // SEEK_DATA, SEEK_HOLE: lseek(2)
    guard whence == data || whence == hole else {
        clinux_fuse_reply_err(request, EINVAL)
        return
    }
    Unmanaged<OpenFile>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
        $0.answerSeek(request, offset: offset, findsData: whence == data)
    }
}

extension ImageError {
    /// What every change of anything in the mount answers.
    static var mountedForReading: ImageError { ImageError(.readOnly, "the mount is for reading only") }

    /// What a change of a file answers that is only read although others in the mount are written.
    static var fileForReading: ImageError { ImageError(.readOnly, "the file is for reading only") }

    /// What a change answers that nobody can make here.
    static var notPermitted: ImageError { ImageError(.denied, "not possible in this mount", errno: EPERM) }
}

extension Operations {
    /// Every call that would change something is answered with EROFS, also where the kernel refuses it first.
    static func refuseChanges(_ table: inout fuse_lowlevel_ops) {
        table.setattr = { request, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.mknod = { request, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.mkdir = { request, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.unlink = { request, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.rmdir = { request, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.symlink = { request, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.rename = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.link = { request, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.create = { request, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.write = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.fallocate = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.setxattr = { request, _, _, _, _, _ in clinux_fuse_reply_err(request, EROFS) }
        table.removexattr = { request, _, _ in clinux_fuse_reply_err(request, EROFS) }
    }
}
