package import Bytes

/// Where a file's bytes live and how they are reached: the only thing below the formats.
///
/// The formats and the disk see nothing but this protocol, so that they run unchanged on a real file, on a
/// simulated one that loses power, and on a dirty log replayed in memory. All calls may come from many threads
/// at once.
package protocol Storage: AnyObject, Sendable {
    /// The name for messages and for finding neighbours: a path as the user or the image gave it.
    var name: String { get }

    /// What tells this file from every other one, also after a rename; nil for what is not a file.
    var identity: FileIdentity? { get }

    /// The size in bytes, as of the open or the last `refresh()`. Every host range is checked against it.
    var size: UInt64 { get }

    /// Asks the host for the size again and returns it. Throws `.io`.
    @discardableResult
    func refresh() throws(ImageError) -> UInt64

    /// Fills `buffer` with the bytes from `offset` on and returns how many there were: fewer than asked only at the
    /// end of the file. Throws `.io`.
    func read(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int

    /// Moves up to `count` bytes from `offset` on into the pipe without copying them, and returns how many went;
    /// nil when these bytes can only be copied (no descriptor behind them, or a filesystem without splice).
    /// Throws `.io`.
    func splice(from offset: HostOffset, count: Int, into pipe: PipeWriter) throws(ImageError) -> Int?

    /// The first byte at or after `offset` that the host holds data for, or nil when only a hole follows. A host that
    /// cannot tell says `offset`. Throws `.io`.
    func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset?

    /// The first byte at or after `offset` that lies in a hole, at most the size. Throws `.io`.
    func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset

    /// The bytes that the host has allocated for the file. Throws `.io`.
    func allocatedBytes() throws(ImageError) -> UInt64

    /// Whether the file was opened for writing. Constant; where it is false every call that changes the file throws
    /// `.readOnly`.
    var isWritable: Bool { get }

    /// Whether the file can neither grow nor be cut: a block device. Constant.
    var hasFixedSize: Bool { get }

    /// Writes all of `bytes` from `offset` on; past the end of the file it grows, and what lies between reads as zeros.
    /// When this throws, any part of the bytes may have been written. Throws `.noSpace` (also for a host quota and the
    /// host's limit on file sizes), `.readOnly` and `.io`.
    func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError)

    /// Makes `count` bytes from `offset` on, which lie within the file, read as zeros, and gives their space back where
    /// the host can; where it cannot, zeros are written. Throws like `write`.
    func zero(at offset: HostOffset, count: UInt64) throws(ImageError)

    /// Gives back the host's space behind `count` bytes from `offset` on, which lie within the file; they read as zeros
    /// then. False, with nothing changed, where the host cannot. Throws `.readOnly` and `.io`.
    func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool

    /// Whether the host has refused to punch a hole because it knows none: space is then not given back. Constant once true.
    var refusesHoles: Bool { get }

    /// Takes space on the host for `count` bytes from `offset` on, growing the file where it ends before their end; what
    /// had no space reads as zeros. False, with nothing changed, where the host cannot. Throws `.noSpace`, `.readOnly`
    /// and `.io`.
    func allocate(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool

    /// Makes the file `size` bytes long; what is added reads as zeros. Throws `.noSpace`, `.readOnly` and `.io`.
    func resize(to size: UInt64) throws(ImageError)

    /// Makes everything written before survive a power loss, the size included: a barrier. Throws `.io`, and then nothing
    /// is known about what was written since the last success.
    func flush() throws(ImageError)

    /// Has the host begin to write out what it keeps in memory of this file, so that the next `flush` finds less to do. A
    /// hint: it may wait for the device, promises nothing, and a failure is for `flush` to tell.
    func startWriteback()

    /// Gives up the file and the locks on it. Nothing may be called afterwards; done once, by the owner.
    func close()
}

/// What tells one host file from all others: a reused inode number has another birth time.
package struct FileIdentity: Hashable, Sendable {
    /// The device of the file's filesystem (st_dev).
    package var device: UInt64
    /// The inode number.
    package var inode: UInt64
    /// The birth time in nanoseconds since 1970, or 0 where the filesystem keeps none: no other time stays as it is.
    package var birth: Int64

    /// Makes an identity of its three parts.
    package init(device: UInt64, inode: UInt64, birth: Int64) {
        self.device = device
        self.inode = inode
        self.birth = birth
    }
}

/// The writing end of a pipe, as a sink for `Storage.splice`.
package struct PipeWriter: Sendable {
    /// The descriptor; owned by whoever made the pipe.
    package let descriptor: Int32

    /// Wraps a descriptor that stays the caller's.
    package init(descriptor: Int32) { self.descriptor = descriptor }
}

/// What a storage that only reads answers.
extension Storage {
    package var isWritable: Bool { false }

    package var hasFixedSize: Bool { false }

    package var refusesHoles: Bool { false }

    package func write(at offset: HostOffset, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        throw .fileOpenForReading(name)
    }

    package func zero(at offset: HostOffset, count: UInt64) throws(ImageError) { throw .fileOpenForReading(name) }

    package func punch(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        throw .fileOpenForReading(name)
    }

    package func allocate(at offset: HostOffset, count: UInt64) throws(ImageError) -> Bool {
        guard isWritable else { throw .fileOpenForReading(name) }
        return false
    }

    package func resize(to size: UInt64) throws(ImageError) { throw .fileOpenForReading(name) }

    package func startWriteback() {}
}

extension ImageError {
    static func fileOpenForReading(_ name: String) -> ImageError {
        ImageError(.readOnly, "the file is open for reading only", file: name)
    }
}

extension Storage {
    /// Writes all of `bytes` from `offset` on. Throws like `write(at:_:)` of a buffer.
    package func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError) {
        var failure: ImageError?
        bytes.withUnsafeBytes { buffer in
            do throws(ImageError) { try write(at: offset, buffer) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Fills all of `buffer` from `offset` on; throws `.corrupt` where the file ends before that.
    package func readAll(at offset: HostOffset, into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) {
        let count = try read(at: offset, into: buffer)
        guard count == buffer.count else {
            throw ImageError(.corrupt, "the file ends before a range that it should hold", at: offset.rawValue)
        }
    }

    /// A copy of exactly `count` bytes (0 or more) from `offset` on; throws `.corrupt` where the file ends before
    /// that. For structures of known, bounded size: the caller has checked `count` against a limit.
    package func bytes(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        var failure: ImageError?
        result.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { try readAll(at: offset, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return result
    }

    /// Whether `count` bytes from `offset` on lie within the file.
    package func holds(_ offset: HostOffset, count: UInt64) -> Bool {
        guard let end = offset.advanced(by: count) else { return false }
        return end.rawValue <= size
    }
}
