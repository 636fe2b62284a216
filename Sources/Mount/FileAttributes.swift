internal import Glibc

/// What stat(2) shows of a file or directory in the mount.
struct FileAttributes: Sendable {
    var inode: UInt64 = 0
    var isDirectory = false
    /// Permission bits.
    var mode: UInt32 = 0
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    /// In bytes.
    var size: UInt64 = 0
    /// In units of 512 bytes.
    var blocks: UInt64 = 0
    /// The size of a good read, in bytes.
    var blockSize: UInt32 = 4096
    /// Modification and change time, in nanoseconds since 1970.
    var modified: Int64 = 0
    var changed: Int64 = 0

    /// How long the kernel may keep them at most, in seconds.
    var lifetime = Double.infinity

    /// The same as the kernel's structure.
    var asStat: stat {
        var result = stat()
        result.st_ino = ino_t(inode)
        result.st_mode = mode | FileType.bits(isDirectory: isDirectory)
        result.st_nlink = isDirectory ? 2 : 1
        result.st_uid = uid
        result.st_gid = gid
        result.st_size = off_t(min(size, UInt64(Int64.max)))
        result.st_blksize = blksize_t(blockSize)
        result.st_blocks = blkcnt_t(min(blocks, UInt64(Int64.max)))
        result.st_mtim = Self.time(modified)
        result.st_atim = result.st_mtim
        result.st_ctim = Self.time(changed)
        return result
    }

    private static func time(_ nanoseconds: Int64) -> timespec {
        let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        return rest < 0
            ? timespec(tv_sec: Int(seconds) - 1, tv_nsec: Int(rest) + 1_000_000_000)
            : timespec(tv_sec: Int(seconds), tv_nsec: Int(rest))
    }
}

/// The file type bits of st_mode. Here, where only one module defines them.
enum FileType {
    static let mask = UInt32(S_IFMT)
    static let directory = UInt32(S_IFDIR)
    static let regular = UInt32(S_IFREG)
    static let link = UInt32(S_IFLNK)

    /// The bits of a directory or of a regular file.
    static func bits(isDirectory: Bool) -> UInt32 { isDirectory ? directory : regular }
}
