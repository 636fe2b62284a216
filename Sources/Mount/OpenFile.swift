internal import Bytes
internal import CFuse3
internal import CLinux
internal import Disk
internal import Glibc
internal import Storage
internal import Synchronization

/// One open(2) of a file in the mount: what the kernel's file handle points to, from OPEN to RELEASE.
///
/// The handle is the object's address. A read thus takes no lock and no reference: the object lives until RELEASE.
final class OpenFile: Sendable {
    /// The disk to read, or nil for text that is made at the open.
    let disk: Disk?
    /// That text.
    let text: [UInt8]
    /// Whether the pages that the kernel still has from before are true.
    let keepsCache: Bool
    /// How the file stands to its image; nil for text.
    let role: OpenRole?
    let counters: AccessCounters
    /// How many failed commits this file has told of, or was opened after.
    let failuresSeen: Atomic<UInt32>

    /// An open file that shows `disk`. One user of the image has been counted for it, and where it is the whole disk
    /// through the page cache of a writable image, one more cached open; both end with it.
    init(disk: Disk, role: OpenRole, keepsCache: Bool) {
        self.disk = disk
        text = []
        self.keepsCache = keepsCache
        self.role = role
        counters = role.image.counters
        failuresSeen = Atomic(role.image.writing.failures.load(ordering: .relaxed))
    }

    init(text: [UInt8]) {
        disk = nil
        self.text = text
        keepsCache = false
        role = nil
        counters = AccessCounters()
        failuresSeen = Atomic(0)
    }

    deinit {
        guard let role, let disk else { return }
        if role.isWhole, !role.isAside, disk.isWritable {
            role.image.writing.cachedOpens.subtract(1, ordering: .relaxed)
        }
        role.image.release(wasWriter: role.isWriter)
    }

    /// What the kernel is to know of this open file (CLINUX_FUSE_ flags).
    var kernelFlags: UInt32 {
        guard let role else { return CLINUX_FUSE_DIRECT | CLINUX_FUSE_NO_FLUSH }
        var flags: UInt32 = keepsCache ? CLINUX_FUSE_KEEP : 0
        // A writer's FLUSH is the last request that its close waits for.
        if !role.isWriter { flags |= CLINUX_FUSE_NO_FLUSH }
        if role.isAside { flags |= CLINUX_FUSE_DIRECT }
        if role.isParallel { flags |= CLINUX_FUSE_PARALLEL }
        return flags
    }

    /// Reads of this many bytes or more may leave by splice: below, a copy is cheaper.
    private static let smallestSplice: UInt64 = 8 << 10
    /// And up to this many: header and unaligned ends must fit a pipe of 1 MiB.
    private static let largestSplice: UInt64 = 960 << 10

    /// Answers a READ: all of the range inside the disk, or an error.
    func answerRead(_ request: fuse_req_t?, size: Int, offset: off_t) {
        guard let disk else { return answerText(request, size: size, offset: offset) }
        guard offset >= 0, size >= 0, let asked = ByteRange(at: UInt64(offset), length: UInt64(size)) else {
            clinux_fuse_reply_err(request, EINVAL)
            return
        }
        let range = asked.clipped(to: disk.size)
        guard !range.isEmpty else {
            clinux_fuse_reply_buf(request, nil, 0)
            return
        }
        counters.reads.add(1, ordering: .relaxed)
        counters.bytes.add(range.length, ordering: .relaxed)
        do throws(ImageError) {
            if range.length >= Self.smallestSplice, range.length <= Self.largestSplice,
                try spliced(disk, range, request)
            {
                return
            }
            try copied(disk, range, request)
        } catch {
            counters.errors.add(1, ordering: .relaxed)
            clinux_fuse_reply_err(request, EIO)
        }
    }

    /// Answers by moving the pages of the image through the thread's pipe; false when this range is better copied.
    /// Nothing has been answered when this throws.
    private func spliced(_ disk: Disk, _ range: ByteRange, _ request: fuse_req_t?) throws(ImageError) -> Bool {
        let length = Int(range.length)
        var pages: Int32 = 0
        let pipe = clinux_fuse_reply_begin(length, &pages)
        guard pipe >= 0 else { return false }
        // The pages in the pipe must not be given to other data before the kernel has copied them. Views that are only read
        // (layers, snapshots) show files that others write.
        let lease = disk.beginTransfer()
        defer { disk.endTransfer(lease) }
        let outcome: Feed
        do throws(ImageError) {
            outcome = try disk.feed(range, into: PipeWriter(descriptor: pipe), capacityPages: Int(pages))
        } catch {
            clinux_fuse_reply_abandon(0)
            throw error
        }
        guard outcome == .done else {
            clinux_fuse_reply_abandon(outcome == .unsuitable ? 1 : 0)
            return false
        }
        // A kernel that does not take the pipe gets a copy.
        return clinux_fuse_reply_send(request, length) == 0
    }

    /// Answers from the thread's buffer. Nothing has been answered when this throws.
    private func copied(_ disk: Disk, _ range: ByteRange, _ request: fuse_req_t?) throws(ImageError) {
        let length = Int(range.length)
        guard length <= Int(CLINUX_FUSE_BUFFER), let buffer = clinux_fuse_buffer() else {
            throw ImageError(.outOfRange, "a request larger than was agreed with the kernel", at: range.lower)
        }
        try disk.read(range, into: UnsafeMutableRawBufferPointer(start: buffer, count: length))
        clinux_fuse_reply_buf(request, buffer.assumingMemoryBound(to: CChar.self), length)
    }

    private func answerText(_ request: fuse_req_t?, size: Int, offset: off_t) {
        let start = min(max(0, Int(offset)), text.count)
        let count = min(max(0, size), text.count - start)
        text.withUnsafeBytes { bytes in
            _ = clinux_fuse_reply_buf(
                request, bytes.baseAddress?.advanced(by: start).assumingMemoryBound(to: CChar.self), count)
        }
    }

    /// Answers SEEK_DATA and SEEK_HOLE.
    func answerSeek(_ request: fuse_req_t?, offset: off_t, findsData: Bool) {
        let size = disk?.size ?? UInt64(text.count)
        guard offset >= 0, UInt64(offset) < size else {
            clinux_fuse_reply_err(request, ENXIO)
            return
        }
        do throws(ImageError) {
            let start = UInt64(offset)
            let found: UInt64? =
                if let disk {
                    findsData ? try disk.nextData(from: start) : try disk.nextHole(from: start)
                } else { findsData ? start : size }
            guard let found, let position = off_t(exactly: found) else {
                clinux_fuse_reply_err(request, ENXIO)
                return
            }
            clinux_fuse_reply_lseek(request, position)
        } catch {
            counters.errors.add(1, ordering: .relaxed)
            clinux_fuse_reply_err(request, EIO)
        }
    }
}
