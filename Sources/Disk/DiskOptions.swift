package import Formats
package import Logging

/// What is done about an image that another program, such as a running VM, is writing.
package enum Sharing: Sendable {
    /// It is not opened.
    case refused
    /// It is read without locks, with a line in the log: for a look at what the image is.
    case whileBusy
    /// Nothing is locked, and so nobody is kept out, with a line in the log (`--force-share`).
    case forced
}

/// What the user chose about opening images.
package struct DiskOptions: Sendable {
    /// How many images may lie on top of each other unless the user says otherwise: more are taken for an attack.
    package static let usualLayers = 256

    /// The format that the user named for the image (`-o format=`); nil to find it.
    package var format: String?
    /// The formats that the user named for files with certain names (`-o format=NAME:PATTERN`): the first that fits counts,
    /// before `format`, and for a parent whose child records none, before `backingFormat`.
    package var formatRules: [FormatRule] = []
    /// What the image is called where the path by which it is opened does not say it; nil where it does.
    package var imageName: [UInt8]?
    /// How the user would name the image's format, for the refusals.
    package var formatOption = FormatOption.image
    /// The format that the user named for a parent whose child records none (`-o backing-format=`).
    package var backingFormat: String?
    /// Choices that formats understand.
    package var formatOptions: FormatOptions
    /// Directories besides the image's own in which files that an image names may lie (`--allow-parents`).
    package var allowedParents: [String]
    /// Files that take the places of the parents that the images name (`-o parent=`): the first that of the image's own,
    /// the next that of that one, and so on; nil where the recorded one counts.
    package var parents: [String?]
    /// Whether a parent whose identity is not the recorded one is read all the same (`-o force-parent`).
    package var forcesParent: Bool
    /// How many images may lie on top of each other (`-o max-layers`).
    package var maxLayers: Int
    /// Whether a message about a missing parent may tell files of its name in other places below the allowed directories:
    /// where it is for the user who started the program, and for nobody else.
    package var tellsNames = true
    /// Whether the image is opened for writing.
    package var isWritable: Bool
    /// Whether a data file that the image names is written with it (`-o write-data-file`); otherwise such an image is not
    /// opened for writing.
    package var writesDataFile: Bool
    /// A file that takes all writes, so that the image stays as it is: an image of `overlayFormat`, made before, whose
    /// parent is the image that is opened; nil where there is none.
    package var overlay: String?
    /// The format of `overlay`.
    package var overlayFormat: String
    /// How the image has been found; nil to look it up by its path.
    package var found: Found?
    /// Whether QEMU's byte locks are taken on every file of the chain.
    package var lock: Bool
    /// What happens where another program is writing a file of the chain. For reading only.
    package var sharing: Sharing
    /// Whether an image is opened although what lies below it cannot be: the disk then ends with the last image that could
    /// be opened, and `Disk.missingParent` says why. For looking at an image, never for reading the whole disk.
    package var acceptsMissingParent: Bool
    /// Where failures of reads and remarks about locks go.
    package var log: Logger
    /// The limit on decoded (compressed) units that are kept, in bytes.
    package var decodeCacheBytes: Int
    /// The size in bytes of the sectors in which the disk's partition table counts (`-o sector-size=`): 512 or 4096, or nil
    /// to find it.
    package var tableSectorSize: UInt64?

    /// An image that has been found by somebody who vouches for where it lies.
    package struct Found: Sendable {
        /// The open file, for writing too where the image is to be written, which stays the caller's: the path is only a
        /// name then. nil to open the path.
        package var descriptor: Int32?
        /// The directories that names in the image are relative to, and in which they may lie: absolute, without links.
        package var directories: [String]

        /// Makes a find of its parts.
        package init(descriptor: Int32? = nil, directories: [String]) {
            self.descriptor = descriptor
            self.directories = directories
        }
    }

    /// Makes options; the defaults are those of the command line.
    package init(
        format: String? = nil, backingFormat: String? = nil, formatOptions: FormatOptions = FormatOptions(),
        allowedParents: [String] = [], parents: [String?] = [], forcesParent: Bool = false,
        maxLayers: Int = Self.usualLayers, isWritable: Bool = false,
        writesDataFile: Bool = false, overlay: String? = nil, overlayFormat: String = "qcow2", lock: Bool = true,
        sharing: Sharing = .refused, acceptsMissingParent: Bool = false,
        log: Logger = Logger(label: "platter"), decodeCacheBytes: Int = 16 << 20, tableSectorSize: UInt64? = nil
    ) {
        self.format = format
        self.backingFormat = backingFormat
        self.formatOptions = formatOptions
        self.allowedParents = allowedParents
        self.parents = parents
        self.forcesParent = forcesParent
        self.maxLayers = maxLayers
        self.isWritable = isWritable
        self.writesDataFile = writesDataFile
        self.overlay = overlay
        self.overlayFormat = overlayFormat
        self.lock = lock
        self.sharing = sharing
        self.acceptsMissingParent = acceptsMissingParent
        self.log = log
        self.decodeCacheBytes = decodeCacheBytes
        self.tableSectorSize = tableSectorSize
    }

    /// Whether the topmost file is written: the overlay where there is one, otherwise the image.
    var writesTop: Bool { isWritable || overlay != nil }
}
