package import Bytes
internal import CLinux
internal import Glibc
internal import Synchronization

extension FileStorage {
    /// The longest piece of zeros that is written at once where the host has no better way, in bytes.
    private static let zeroPiece = 64 << 10

    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard isWritable else { throw .fileOpenForReading(name) }
        guard let base = bytes.baseAddress else { return }
        guard let end = offset.advanced(by: UInt64(bytes.count)), end.rawValue <= UInt64(Int64.max) else {
            throw ImageError(.noSpace, "a file cannot be that large", at: offset.rawValue, errno: EFBIG, file: name)
        }
        var done = 0
        while done < bytes.count {
            let position = off_t(offset.rawValue) + off_t(done)
            let count = try syscall("cannot write the file", at: offset.rawValue) {
                pwrite(descriptor, base + done, bytes.count - done, position)
            }
            guard count > 0 else {
                throw ImageError(.noSpace, "cannot write the file", at: offset.rawValue, file: name)
            }
            done += count
        }
        grow(to: end.rawValue)
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) {
        if try punch(at: offset, count: count) { return }
        if clinux_zero_range(descriptor, Int64(offset.rawValue), Int64(count)) == 0 { return }
        let zeros = [UInt8](repeating: 0, count: Self.zeroPiece)
        var done: UInt64 = 0
        while done < count {
            let step = min(count - done, UInt64(Self.zeroPiece))
            try write(
                at: HostOffset(offset.rawValue + done),
                step == UInt64(Self.zeroPiece) ? zeros : Array(zeros[..<Int(step)]))
            done += step
        }
    }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard isWritable else { throw .fileOpenForReading(name) }
        guard count > 0 else { return true }
        guard let end = offset.advanced(by: count), end.rawValue <= size else {
            throw ImageError(.outOfRange, "a hole past the end of the file", at: offset.rawValue, file: name)
        }
        while true {
            if clinux_punch_hole(descriptor, Int64(offset.rawValue), Int64(count)) == 0 { return true }
            switch errno {
            case EINTR: continue
            case ENOTSUP, ENOSYS, ENODEV:
                hasRefusedHole.store(true, ordering: .relaxed)
                return false
            case EINVAL, EPERM: return false
            case let code:
                throw ImageError(kind(of: code), "cannot punch a hole", at: offset.rawValue, errno: code, file: name)
            }
        }
    }

    package func allocate(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard isWritable else { throw .fileOpenForReading(name) }
        guard count > 0 else { return true }
        guard let end = offset.advanced(by: count), end.rawValue <= UInt64(Int64.max) else {
            throw ImageError(.noSpace, "a file cannot be that large", at: offset.rawValue, errno: EFBIG, file: name)
        }
        while clinux_allocate(descriptor, Int64(offset.rawValue), Int64(count)) != 0 {
            switch errno {
            case EINTR: continue
            case ENOTSUP, ENOSYS, ENODEV, EINVAL: return false
            case let code:
                throw ImageError(kind(of: code), "cannot take space", at: offset.rawValue, errno: code, file: name)
            }
        }
        grow(to: end.rawValue)
        return true
    }

    package func resize(to size: UInt64) throws(ImageError) {
        guard isWritable else { throw .fileOpenForReading(name) }
        guard !isDevice else {
            guard size <= self.size else {
                throw ImageError(.noSpace, "a block device cannot grow", file: name)
            }
            return
        }
        guard let length = off_t(exactly: size) else {
            throw ImageError(.noSpace, "a file cannot be that large", errno: EFBIG, file: name)
        }
        // Who reads meanwhile must not take a file that becomes shorter for one that has lost something.
        let before = currentSize.load(ordering: .relaxed)
        if size < before { currentSize.store(size, ordering: .releasing) }
        do throws(ImageError) {
            _ = try syscall("cannot change the file's size") { ftruncate(descriptor, length) }
        } catch {
            if size < before { currentSize.store(before, ordering: .relaxed) }
            throw error
        }
        currentSize.store(size, ordering: .relaxed)
    }

    /// Notes that the file reaches to `end` at least; several writers may do so at once.
    private func grow(to end: UInt64) {
        var known = currentSize.load(ordering: .relaxed)
        while known < end {
            let attempt = currentSize.compareExchange(expected: known, desired: end, ordering: .relaxed)
            if attempt.exchanged { return }
            known = attempt.original
        }
    }
}
