package import Bytes
package import Formats
package import Storage

/// One flat virtual disk: the whole image, one of its partitions, snapshots or layers. The only mover of guest bytes.
package final class Disk: Sendable {
    /// The size in bytes.
    package let size: UInt64 = 0
}
