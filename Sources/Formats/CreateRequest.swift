package import Storage

/// What `ImageFormat.create` needs.
package struct CreateRequest: Sendable {
    /// The image that a differencing child is made on.
    package struct Parent: Sendable {
        /// Its path without symbolic links, from the root of this machine.
        package var absolutePath: String
        /// Its path from the directory in which the new image will lie, or as the user typed it where that is wanted.
        package var recordedPath: String
        /// What the parent's own format says of it.
        package var shape: DiskShape
        /// When it was last modified, in seconds since 1970 (a VHD records this).
        package var modified: Int64
        /// Its image file, open for reading: a VHDX child takes over what belongs to the disk. Nil only where the child's
        /// format has no use for it.
        package var storage: (any Storage)?

        /// Makes a parent of its parts.
        package init(
            absolutePath: String, recordedPath: String, shape: DiskShape, modified: Int64,
            storage: (any Storage)? = nil
        ) {
            self.absolutePath = absolutePath
            self.recordedPath = recordedPath
            self.shape = shape
            self.modified = modified
            self.storage = storage
        }
    }

    /// The file to fill: empty, and open for writing.
    package var storage: any Storage
    /// The size in bytes of the block device that becomes the image, where it is none of a file: its end stays where it
    /// is, behind that of the image. A multiple of 512.
    package var deviceBytes: UInt64?
    /// The size of the disk in bytes.
    package var virtualSize: UInt64
    /// Options by name, every one of them in `createOptions`.
    package var options: [String: String]
    /// The parent, or nil for a disk of its own.
    package var parent: Parent?
    /// Makes the file of this name, as an image records it, next to the image (an external data file).
    package var makeFile: @Sendable (String) throws(ImageError) -> any Storage

    /// Makes a request of its parts.
    package init(
        storage: any Storage, deviceBytes: UInt64? = nil, virtualSize: UInt64, options: [String: String] = [:],
        parent: Parent? = nil,
        makeFile: @escaping @Sendable (String) throws(ImageError) -> any Storage = { (name) throws(ImageError) in
            throw ImageError(.unsupported, "no further file can be made here", detail: name)
        }
    ) {
        self.storage = storage
        self.deviceBytes = deviceBytes
        self.virtualSize = virtualSize
        self.options = options
        self.parent = parent
        self.makeFile = makeFile
    }
}

/// One option of `create`.
package struct CreateOption: Sendable {
    /// Its name, as `-o name=value` has it; where qemu-img has the same option, its name there.
    package var name: String
    /// What may stand for it, for people ("1M…256M", "on|off").
    package var values: String
    /// What it does, a sentence without a full stop, with the default.
    package var meaning: String

    /// Makes an option of its parts.
    package init(_ name: String, _ values: String, _ meaning: String) {
        self.name = name
        self.values = values
        self.meaning = meaning
    }
}
