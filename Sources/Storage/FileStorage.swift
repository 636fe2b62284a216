package import Bytes
internal import CLinux
internal import Glibc
internal import Synchronization

/// A regular file or a block device on the host, open for reading, or for reading and writing.
///
/// The descriptor stays open as long as the storage: QEMU's byte locks belong to it.
package final class FileStorage: Storage {
    package let name: String
    package let identity: FileIdentity?

    /// The descriptor; valid until `close()`.
    package let descriptor: Int32

    /// Whether the descriptor is open for writing.
    package let isWritable: Bool

    let isDevice: Bool
    let currentSize: Atomic<UInt64>
    let hasRefusedHole = Atomic<Bool>(false)
    private let isOpen = Atomic<Bool>(true)
    /// The error number of the first barrier that failed, or 0.
    private let flushFailure = Mutex<Int32>(0)

    /// Takes over `descriptor` (open for reading, and for writing where `isWritable`), which is closed also when this
    /// throws. Throws `.unsupported` for what is neither a regular file nor, unless `regularOnly`, a block device, and
    /// `.io`.
    package init(
        owning descriptor: Int32, name: String, regularOnly: Bool = false, isWritable: Bool = false
    ) throws(ImageError) {
        self.descriptor = descriptor
        self.name = name
        self.isWritable = isWritable
        var facts = clinux_file_facts()
        var isDevice = false
        do throws(ImageError) {
            _ = try syscall("cannot read the file's attributes") { clinux_facts(descriptor, &facts) }
            switch facts.mode & UInt32(S_IFMT) {
            case UInt32(S_IFREG): break
            case UInt32(S_IFBLK) where !regularOnly: isDevice = true
            case UInt32(S_IFBLK):
                throw ImageError(
                    .unsupported, "is a block device; a parent may be one only below --allow-parents /dev")
            case UInt32(S_IFDIR): throw ImageError.directory
            default:
                throw ImageError(
                    .unsupported,
                    regularOnly ? "is not a regular file" : "is neither a regular file nor a block device")
            }
            if isDevice {
                _ = try syscall("cannot read the device's size") { clinux_block_device_size(descriptor, &facts.size) }
            }
        } catch {
            Glibc.close(descriptor)
            throw error.named(name)
        }
        self.isDevice = isDevice
        identity = FileIdentity(device: facts.device, inode: facts.inode, birth: facts.birth_ns)
        currentSize = Atomic(facts.size)
        if isWritable { try readyForWriter() }
    }

    /// Sees to it that what is read is what the medium holds: a writer builds on it. It may be in memory only, written by a
    /// program that was killed before its barrier, and after a barrier that failed the host keeps what it could not write as
    /// if it had. Again once other programs are locked out, who may have written until then. Throws `.io`.
    package func readyForWriter() throws(ImageError) {
        try flush()
        _ = clinux_forget_pages(descriptor)
    }

    /// Opens the file at `path`, following symbolic links as the user who typed it expects, for writing too where
    /// `isWritable`. Throws `.missing`, `.denied`, `.readOnly` (a filesystem mounted so), `.unsupported` or `.io`.
    package convenience init(path: String, isWritable: Bool = false) throws(ImageError) {
        let descriptor: Int32
        do throws(ImageError) {
            let access = isWritable ? O_RDWR : O_RDONLY
            descriptor = try syscall(isWritable ? "cannot open the file for writing" : "cannot open the file") {
                clinux_open_at(AT_FDCWD, path, access | O_NONBLOCK | O_NOCTTY)
            }
        } catch { throw error.named(path) }
        try self.init(owning: descriptor, name: path, isWritable: isWritable)
    }

    /// The file behind an open descriptor, which stays the caller's. Throws `.unsupported` and `.io`.
    package convenience init(duplicating descriptor: Int32, name: String, isWritable: Bool = false) throws(ImageError) {
        let copy: Int32
        do throws(ImageError) {
            copy = try syscall("cannot open the file") { fcntl(descriptor, F_DUPFD_CLOEXEC, 0) }
        } catch { throw error.named(name) }
        try self.init(owning: copy, name: name, isWritable: isWritable)
    }

    deinit { close() }

    package var hasFixedSize: Bool { isDevice }

    package var size: UInt64 { currentSize.load(ordering: .relaxed) }

    package var refusesHoles: Bool { hasRefusedHole.load(ordering: .relaxed) }

    @discardableResult
    package func refresh() throws(ImageError) -> UInt64 {
        var size: UInt64 = 0
        if isDevice {
            _ = try syscall("cannot read the device's size") { clinux_block_device_size(descriptor, &size) }
        } else {
            size = try facts().size
        }
        currentSize.store(size, ordering: .relaxed)
        return size
    }

    /// Learns that the file has become longer, and says whether it has. Unlike `refresh` it never makes the size fall, so that
    /// what another thread has just checked against it stays right. Throws `.io`.
    package func grow() throws(ImageError) -> Bool {
        let size = isDevice ? size : try facts().size
        return size > currentSize.max(size, ordering: .relaxed).oldValue
    }

    package func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        guard let base = buffer.baseAddress else { return 0 }
        guard offset.rawValue <= UInt64(Int64.max) - UInt64(buffer.count) else { return 0 }
        var done = 0
        while done < buffer.count {
            let position = off_t(offset.rawValue) + off_t(done)
            let count = try syscall("cannot read the file", at: offset.rawValue) {
                pread(descriptor, base + done, buffer.count - done, position)
            }
            if count == 0 { break }
            done += count
        }
        return done
    }

    package func splice(
        from offset: HostOffset, count: Int, into pipe: PipeWriter
    ) throws(ImageError) -> Int? {
        guard let position = Int64(exactly: offset.rawValue) else { return 0 }
        while true {
            let moved = clinux_splice_to_pipe(descriptor, position, pipe.descriptor, count)
            if moved >= 0 { return moved }
            switch errno {
            case EINTR: continue
            // No splice on this filesystem, or no room in the pipe: the caller copies instead.
            case EINVAL, EAGAIN: return nil
            case let code: throw ImageError(.io, "cannot read the file", at: offset.rawValue, errno: code)
            }
        }
    }

    package func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        try seek(from: offset, clinux_seek_data, orAtEnd: nil)
    }

    package func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset {
        let hole = try seek(from: offset, clinux_seek_hole, orAtEnd: HostOffset(size)) ?? HostOffset(size)
        return min(hole, HostOffset(size))
    }

    package func allocatedBytes() throws(ImageError) -> UInt64 {
        isDevice ? size : try facts().blocks.checkedMultiplying(by: 512) ?? .max
    }

    /// A failure is always `.io`, for a full host too, and it is the answer to every later call: the kernel drops what it
    /// could not write and says so once, to whoever asks first.
    package func flush() throws(ImageError) {
        let code = flushFailure.withLock { failure -> Int32 in
            while failure == 0, fdatasync(descriptor) != 0 {
                if errno != EINTR { failure = errno }
            }
            return failure
        }
        guard code == 0 else { throw ImageError(.io, "cannot flush the file", errno: code, file: name) }
    }

    /// What the device fails at later the kernel keeps for the next barrier. A filesystem that fails at finding a place for
    /// the bytes says so here, and the barrier might not.
    package func startWriteback() {
        guard clinux_start_writeback(descriptor) != 0 else { return }
        let code = errno
        // Only an answer that the call is not to be had here says nothing about the bytes.
        guard ![EINVAL, ENOSYS, ENOTSUP, ESPIPE, EINTR].contains(code) else { return }
        flushFailure.withLock { failure in
            if failure == 0 { failure = code }
        }
    }

    /// Has the host make durable what the file reads as, whoever wrote it: for a file that a writer builds on and does not
    /// write itself. Throws `.io`.
    package func makeDurable() throws(ImageError) {
        while fdatasync(descriptor) != 0 {
            switch errno {
            case EINTR: continue
            // A filesystem that is never written has nothing to lose.
            case EINVAL, EROFS, ENOTSUP, ENOSYS: return
            case let code: throw ImageError(.io, "cannot flush the file", errno: code, file: name)
            }
        }
    }

    package func close() {
        guard isOpen.exchange(false, ordering: .relaxed) else { return }
        Glibc.close(descriptor)
    }

    /// The file's attributes now. Throws `.io`.
    package func stamp() throws(ImageError) -> FileStamp {
        let facts = try facts()
        return FileStamp(size: facts.size, modified: facts.modify_ns, changed: facts.change_ns)
    }

    private func facts() throws(ImageError) -> clinux_file_facts {
        var facts = clinux_file_facts()
        _ = try syscall("cannot read the file's attributes") { clinux_facts(descriptor, &facts) }
        return facts
    }

    /// SEEK_DATA or SEEK_HOLE. ENXIO means past the last one; a host without either has no holes.
    private func seek(
        from offset: HostOffset, _ call: (Int32, Int64) -> Int64, orAtEnd end: HostOffset?
    ) throws(ImageError) -> HostOffset? {
        guard let position = Int64(exactly: offset.rawValue), offset.rawValue < size else { return end }
        while true {
            let found = call(descriptor, position)
            if found >= 0 { return HostOffset(UInt64(found)) }
            switch errno {
            case EINTR: continue
            case ENXIO: return end
            case EINVAL, ENOTSUP: return end == nil ? offset : end
            case let code: throw ImageError(.io, "cannot seek in the file", at: offset.rawValue, errno: code)
            }
        }
    }
}

/// What changes on a host file when somebody changes its content.
package struct FileStamp: Hashable, Sendable {
    /// The size in bytes.
    package var size: UInt64
    /// The modification time in nanoseconds since 1970.
    package var modified: Int64
    /// The change time in nanoseconds since 1970.
    package var changed: Int64

    /// Makes a stamp of its parts.
    package init(size: UInt64, modified: Int64, changed: Int64) {
        self.size = size
        self.modified = modified
        self.changed = changed
    }
}
