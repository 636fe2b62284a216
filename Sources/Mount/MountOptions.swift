package import Disk
package import Logging

/// What the user chose about a mount: the command line makes it, the session only reads it.
package struct MountOptions: Sendable {
    /// The image, or the directory of images: an absolute path.
    package var source: String
    /// The name by which the user called the image, where that was a link; nil for the last part of `source`.
    package var sourceName: String?
    /// Where it appears: the absolute path of a directory, or of a regular file that becomes the disk.
    package var mountpoint: String
    /// Whether `source` is a directory of images.
    package var isDirectoryMode: Bool
    /// Whether links out of a directory of images are followed where they lead below an allowed directory
    /// (`-o follow-links`).
    package var followsLinks = false
    /// Whether the disks may be written (`-w`). Without it the mount carries `ro` and no image is opened for writing.
    package var isWritable = false
    /// Whether an open with O_TRUNC discards everything (`-o truncate=discard`) instead of being refused with EPERM.
    package var truncationDiscards = false
    /// The name of the disk in the mount (`-o name=`); nil for the image's own name with ".raw".
    package var name: String?
    /// Whether partitions appear as files of their own (`-o partitions`).
    package var partitions = false
    /// Whether internal snapshots appear as files of their own (`-o snapshots`).
    package var snapshots = false
    /// Whether the layers below an image appear as files of their own (`-o layers`).
    package var layers = false
    /// Whether other users may use the mount; nil tries it and goes on without where it is not permitted.
    package var allowOther: Bool?
    /// The owner that files and directories show; nil for that of the host file.
    package var uid: UInt32?
    /// The group that files and directories show; nil for that of the host file.
    package var gid: UInt32?
    /// Permission bits taken away from files (`fmask=`, or `umask=`); nil for those that the host file lacks where other
    /// users may come.
    package var fmask: UInt32?
    /// Permission bits taken away from directories (`dmask=`, or `umask=`).
    package var dmask: UInt32 = 0
    /// Options that go to mount(2) as they are: "nosuid", "nodev", "noexec", "noatime", ….
    package var kernelMountOptions: [String] = []
    /// What `mount` and `df` show as the device; nil for `source`.
    package var fsname: String?
    /// How many threads serve; nil chooses by the number of processors.
    package var threads: Int?
    /// How images are opened.
    package var disk: DiskOptions
    /// Where messages go.
    package var log: Logger
    /// Whether every request is logged (`-d`).
    package var debug = false
    /// How long the kernel may keep attributes, in seconds; nil for what is safe.
    package var attrTimeout: Double?
    /// How long the kernel may keep names, in seconds; nil for what is safe.
    package var entryTimeout: Double?
    /// Whether a directory that holds files may be mounted on (`-o nonempty`).
    package var allowNonEmpty = false
    /// Whether the process gives up its privileges before it serves.
    package var restrict = true
    /// Directories and files that the process still has to write to while it serves: its pid file, its run directory.
    package var writablePaths: [String] = []
    /// The version that `.platter/status.json` shows.
    package var version = "0"

    /// Makes options with the defaults of the command line for a source and a mountpoint, both absolute.
    package init(
        source: String, mountpoint: String, isDirectoryMode: Bool, disk: DiskOptions = DiskOptions(),
        log: Logger = Logger(label: "platter")
    ) {
        self.source = source
        self.mountpoint = mountpoint
        self.isDirectoryMode = isDirectoryMode
        self.disk = disk
        self.log = log
    }
}
