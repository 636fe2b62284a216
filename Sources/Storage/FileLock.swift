internal import CLinux
internal import Glibc

/// QEMU's byte-range locks (file-posix): how programs that know each other agree about an image, whatever its format.
///
/// Every lock is shared; a conflict is found by asking whether anybody holds the opposite byte. Byte 100 + i is "I use
/// permission i", byte 200 + i is "I do not let others use it". The locks belong to the open file description and end
/// with it.
package enum FileLock {
    /// A permission and its number in QEMU's scheme.
    private enum Permission: Int64 {
        case consistentRead = 0
        case write = 1
        case resize = 3
    }

    /// Takes a reader's locks: uses consistent reads, and lets nobody write or resize. Two readers coexist.
    ///
    /// Returns false where the filesystem has no such locks (the caller says so and goes on). Throws `.busy`, naming the
    /// program that has the image, and `.io`.
    package static func lockForReading(_ storage: FileStorage) throws(ImageError) -> Bool {
        try lock(storage, using: [.consistentRead], unsharing: [.write, .resize])
    }

    /// Takes a writer's locks: reads, writes and resizes, and lets nobody else write, resize, or rely on what it reads
    /// not changing. Like `lockForReading` otherwise; the file need not be open for writing.
    package static func lockForWriting(_ storage: FileStorage) throws(ImageError) -> Bool {
        try lock(storage, using: [.consistentRead, .write, .resize], unsharing: [.write, .resize])
    }

    /// Who has the file open in a way that a reader must not meet, as the error of `lockForReading`; nil where nobody has,
    /// or the filesystem cannot tell. Takes no lock.
    package static func conflict(withReading storage: FileStorage) -> ImageError? {
        let bytes = [Permission.write, .resize].map { 100 + $0.rawValue } + [200 + Permission.consistentRead.rawValue]
        let isBusy = bytes.contains { clinux_test_byte(storage.descriptor, $0) == 1 }
        return isBusy ? busy(storage, bytes, isReading: true) : nil
    }

    private static func lock(
        _ storage: FileStorage, using used: [Permission], unsharing unshared: [Permission]
    ) throws(ImageError) -> Bool {
        let isReading = !used.contains(.write)
        let bytes = used.map { 100 + $0.rawValue } + unshared.map { 200 + $0.rawValue }
        let opposite = used.map { 200 + $0.rawValue } + unshared.map { 100 + $0.rawValue }
        for byte in bytes {
            guard clinux_lock_byte(storage.descriptor, byte) != 0 else { continue }
            let code = errno
            release(bytes, of: storage)
            if [EINVAL, ENOTSUP, ENOSYS, ENOLCK].contains(code) { return false }
            if code == EAGAIN || code == EACCES { throw busy(storage, bytes, isReading: isReading) }
            throw ImageError(.io, "cannot lock the file", errno: code, file: storage.name)
        }
        for byte in opposite where clinux_test_byte(storage.descriptor, byte) == 1 {
            release(bytes, of: storage)
            throw busy(storage, opposite, isReading: isReading)
        }
        return true
    }

    private static func release(_ bytes: [Int64], of storage: FileStorage) {
        for byte in bytes { _ = clinux_unlock_byte(storage.descriptor, byte) }
    }

    /// The refusal because of whoever holds a lock on one of `bytes`.
    private static func busy(_ storage: FileStorage, _ bytes: [Int64], isReading: Bool) -> ImageError {
        ImageError(
            .busy,
            isReading
                ? "another program has the image open; stop it first, or look at it as it is with --force-share (-U)"
                : "another program has the image open; stop it first, or work on a copy",
            detail: LockHolders(of: storage, locking: bytes).text, file: storage.name)
    }
}
