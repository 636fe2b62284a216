internal import Bytes
internal import CFuse3
internal import CLinux
internal import Disk
internal import Glibc
internal import Storage
internal import Synchronization

extension OpenFile {
    /// Answers a WRITE, as a disk does: what lies behind the end is not written, and a write that begins there fails with
    /// ENOSPC. The bytes go to the disk from where they are.
    func answerWrite(
        _ request: fuse_req_t?, _ bytes: UnsafeRawBufferPointer, offset: off_t, isSynchronous: Bool
    ) {
        guard let disk, let role, role.isWriter else { return refuse(request, EBADF) }
        guard offset >= 0 else { return refuse(request, EINVAL) }
        guard !bytes.isEmpty else {
            clinux_fuse_reply_write(request, 0)
            return
        }
        let start = UInt64(offset)
        guard start < disk.size else { return refuse(request, ENOSPC) }
        let count = Int(min(UInt64(bytes.count), disk.size - start))
        let range = ByteRange(start, to: start + UInt64(count))
        let fitting = UnsafeRawBufferPointer(rebasing: bytes[..<count])
        counters.writes.add(1, ordering: .relaxed)
        counters.bytesWritten.add(UInt64(count), ordering: .relaxed)
        if role.isAside, role.image.writing.cachedOpens.load(ordering: .relaxed) > 0 {
            return writeAside(request, fitting, range, isSynchronous: isSynchronous)
        }
        do throws(ImageError) {
            try disk.write(range, from: fitting)
        } catch { return refuse(request, error) }
        wrote(request, range, isSynchronous: isSynchronous)
    }

    /// Answers a WRITE whose bytes are on the disk.
    private func wrote(_ request: fuse_req_t?, _ range: ByteRange, isSynchronous: Bool) {
        guard let role else { return }
        role.image.context.keeper.changed()
        // Somebody may have opened the whole disk while the bytes went down.
        if role.isAside, role.image.writing.mustTellOfChange() {
            return aside(request, range, tellsBefore: false, {}) { [self] request in
                answer(request, written: range, isSynchronous: isSynchronous)
            }
        }
        answer(request, written: range, isSynchronous: isSynchronous && role.isAside)
    }

    /// The kernel sends no FSYNC after an O_DSYNC write that passes its cache by: that is `isSynchronous`.
    private func answer(_ request: fuse_req_t?, written range: ByteRange, isSynchronous: Bool) {
        if isSynchronous, let code = commit() { return refuse(request, code) }
        clinux_fuse_reply_write(request, Int(range.length))
    }

    // MARK: - Past the page cache

    /// Answers a WRITE by a thread that may wait for the kernel.
    private func writeAside(
        _ request: fuse_req_t?, _ bytes: UnsafeRawBufferPointer, _ range: ByteRange, isSynchronous: Bool
    ) {
        // This thread goes on to the next request, whose bytes come to the same place.
        let copy = [UInt8](bytes)
        let write = { @Sendable [self] () throws(ImageError) in
            var failure: ImageError?
            copy.withUnsafeBytes { bytes in
                do throws(ImageError) { try disk?.write(range, from: bytes) } catch { failure = error }
            }
            if let failure { throw failure }
            role?.image.context.keeper.changed()
        }
        aside(request, range, write) { [self] request in
            answer(request, written: range, isSynchronous: isSynchronous)
        }
    }

    /// Has another thread run `change` between two notifications about `range` of this file, and then `answer`: the pages
    /// of the whole disk are written back and dropped before the change, which they would else undo, and dropped again
    /// after it.
    private func aside(
        _ request: fuse_req_t?, _ range: ByteRange, tellsBefore: Bool = true,
        _ change: @escaping @Sendable () throws(ImageError) -> Void,
        _ answer: @escaping @Sendable (fuse_req_t?) -> Void
    ) {
        guard let role else { return }
        let (image, carried) = (role.image, Carried(request: request))
        let place = ByteRange(role.start + range.lower, to: role.start + range.upper)
        image.context.aside.push { [self] session in
            if tellsBefore { image.dropPages(place, session) }
            do throws(ImageError) { try change() } catch { return refuse(carried.request, error) }
            _ = image.writing.mustTellOfChange()
            image.dropPages(place, session)
            answer(carried.request)
        }
    }

    /// A request on its way to another thread.
    private struct Carried: @unchecked Sendable {
        let request: fuse_req_t?
    }

    // MARK: - Holes

    private enum Mode {
        static let keepSize: Int32 = 1
        static let punchHole: Int32 = 2
        static let zeroRange: Int32 = 16
    }

    /// Answers a FALLOCATE. A hole and a range of zeros always read as zeros afterwards. Space cannot be set aside, as on
    /// any block device: that is EOPNOTSUPP, which the kernel does not remember. A hole never is: a loop device would
    /// discard no more until it is made anew.
    func answerAllocate(_ request: fuse_req_t?, mode: Int32, offset: off_t, length: off_t) {
        guard let disk, let role, role.isWriter else { return refuse(request, EBADF) }
        let keepsSize = mode & Mode.keepSize != 0
        let punches = mode & ~Mode.keepSize == Mode.punchHole && keepsSize
        guard punches || mode & ~Mode.keepSize == Mode.zeroRange else { return refuse(request, EOPNOTSUPP) }
        guard offset >= 0, length > 0, let asked = ByteRange(at: UInt64(offset), length: UInt64(length)) else {
            return refuse(request, EINVAL)
        }
        // The kernel would make the file longer.
        guard keepsSize || asked.upper <= disk.size else { return refuse(request, ENOSPC) }
        let range = asked.clipped(to: disk.size)
        guard !range.isEmpty else { return refuse(request, 0) }
        zero(request, disk, range, role)
    }

    /// Makes a range zeros and answers.
    private func zero(_ request: fuse_req_t?, _ disk: Disk, _ range: ByteRange, _ role: OpenRole) {
        let done = { @Sendable (request: fuse_req_t?) in _ = clinux_fuse_reply_err(request, 0) }
        let zero = { @Sendable () throws(ImageError) in
            try disk.zero(range)
            role.image.context.keeper.changed()
        }
        // The kernel drops the pages of the file that the request came through by itself.
        if !role.isWhole, role.image.writing.cachedOpens.load(ordering: .relaxed) > 0 {
            return aside(request, range, zero, done)
        }
        do throws(ImageError) { try zero() } catch { return refuse(request, error) }
        if !role.isWhole, role.image.writing.mustTellOfChange() {
            return aside(request, range, tellsBefore: false, {}, done)
        }
        done(request)
    }

    /// Throws the content away for an open with O_TRUNC and then answers with `answer`; the kernel drops the pages of the
    /// file itself. Throws what `Disk.zero` throws, before anything was answered.
    func discard(
        _ request: fuse_req_t?, _ answer: @escaping @Sendable (fuse_req_t?) -> Void
    ) throws(ImageError) {
        guard let disk, let role else { return }
        let whole = ByteRange(0, to: disk.size)
        try disk.zero(whole)
        role.image.context.keeper.changed()
        guard !role.isWhole, role.image.writing.mustTellOfChange() else { return answer(request) }
        aside(request, whole, tellsBefore: false, {}, answer)
    }

    // MARK: - Committing

    /// Answers a FLUSH: close(2) returns when everything written so far is durable.
    func answerFlush(_ request: fuse_req_t?) {
        let code = commit()
        // Perhaps the last of this file, and umount(2) may be the next that comes.
        role?.image.context.keeper.committed()
        clinux_fuse_reply_err(request, code ?? 0)
    }

    /// Answers an FSYNC. A commit that failed while nobody waited is told here, once for each open file.
    func answerSynchronise(_ request: fuse_req_t?) {
        let code = commit()
        guard let writing = role?.image.writing else { return refuse(request, 0) }
        let failures = writing.failures.load(ordering: .acquiring)
        let isNews = failuresSeen.exchange(failures, ordering: .relaxed) != failures
        clinux_fuse_reply_err(request, code ?? (isNews ? writing.lastFailure.load(ordering: .relaxed) : 0))
    }

    /// Makes everything durable that was acknowledged before. The error number, or nil.
    private func commit() -> Int32? {
        guard let disk, let role, disk.isWritable else { return nil }
        do throws(ImageError) { try role.image.commit(disk) } catch { return error.errorNumberOfWriting }
        return nil
    }

    private func refuse(_ request: fuse_req_t?, _ code: Int32) { clinux_fuse_reply_err(request, code) }

    private func refuse(_ request: fuse_req_t?, _ error: ImageError) {
        counters.errors.add(1, ordering: .relaxed)
        clinux_fuse_reply_err(request, error.errorNumberOfWriting)
    }
}

extension ImageError {
    /// What a writer sees: no room is said as such, and everything else is an I/O error. ENOSYS and EOPNOTSUPP, which the
    /// kernel or a loop device would take for an answer to all later requests too, never come from here.
    var errorNumberOfWriting: Int32 {
        switch kind {
        case .noSpace: errno == EDQUOT ? EDQUOT : ENOSPC
        case .readOnly: EROFS
        default: EIO
        }
    }
}
