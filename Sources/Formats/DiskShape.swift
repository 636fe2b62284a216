package import Bytes
package import Storage

/// What a driver's disk looks like: fixed from open to close.
package struct DiskShape: Sendable {
    /// The size of the virtual disk in bytes, exactly as a reader sees it.
    package var virtualSize: UInt64
    /// The unit in which the format gives out host space, in bytes: block or cluster size; a power of two.
    package var allocationUnit: UInt64
    /// The logical sector size of the disk in bytes: 512 or 4096.
    package var logicalSectorSize: UInt32
    /// The physical sector size that the image announces in bytes: 512 or 4096.
    package var physicalSectorSize: UInt32
    /// The format's name for people and for `-o format=` ("vhdx").
    package var formatName: String
    /// The kind of image within the format ("dynamic", "differencing", "v3").
    package var subformat: String
    /// What children record to recognise this image: a VHD's UniqueId, a VHDX's DataWriteGuid; nil where the format
    /// has no such thing.
    package var identity: GUID?
    /// What a user should know about the image, one sentence each ("the log was replayed in memory").
    package var remarks: [String]
    /// Further facts for `platter info`, in order.
    package var facts: [Fact]

    /// Makes a shape; the parts that most formats lack have defaults.
    package init(
        virtualSize: UInt64, allocationUnit: UInt64, logicalSectorSize: UInt32 = 512,
        physicalSectorSize: UInt32 = 512, formatName: String, subformat: String, identity: GUID? = nil,
        remarks: [String] = [], facts: [Fact] = []
    ) {
        self.virtualSize = virtualSize
        self.allocationUnit = allocationUnit
        self.logicalSectorSize = logicalSectorSize
        self.physicalSectorSize = physicalSectorSize
        self.formatName = formatName
        self.subformat = subformat
        self.identity = identity
        self.remarks = remarks
        self.facts = facts
    }

    /// Returns the value of the fact with a key; nil where the image has no such fact.
    package func fact(_ key: String) -> Fact.Value? { facts.first { $0.key == key }?.value }
}

/// The image below this one, as the child names it. `Disk` finds, opens and verifies it.
package struct ParentReference: Sendable {
    /// One recorded way to find the parent.
    package struct Path: Sendable, Hashable {
        /// What the path is relative to.
        package enum Base: Sendable, Hashable {
            /// The directory of the image that names it.
            case image
            /// The root of this machine.
            case host
            /// A Windows drive, share or volume, which is nowhere on this machine: only the end of the path is of use.
            case windows
            /// Nothing that is a plain local file (a protocol of QEMU): `text` is what is recorded. Never opened.
            case elsewhere
        }

        /// What the text is relative to.
        package var base: Base
        /// The path with forward slashes, as the bytes of the name.
        package var text: String
        /// What of an `.elsewhere` name is not understood, for people; nil where the name says enough.
        package var refusal: String?

        /// Makes a path of its parts.
        package init(base: Base, text: String, refusal: String? = nil) {
            self.base = base
            self.text = text
            self.refusal = refusal
        }
    }

    /// Every recorded path, in the order in which the format wants them tried; empty where the image has none of use.
    package var paths: [Path]
    /// What the image itself says, word for word, for people.
    package var recorded: [String]
    /// The format that the child records for its parent, by registry name; nil when the child records none.
    package var format: String?
    /// What the parent's `DiskShape.identity` must be one of; empty where the format records nothing to check, and
    /// `unrecorded` where it does but this image does not.
    package var identities: [GUID]
    /// Whether nothing lies below the parent, whatever that names itself (QEMU's `"backing": null`).
    package var endsChain: Bool

    /// The identities of a parent that the image should let one recognise but does not: no file fits them.
    package static let unrecorded: [GUID] = [.zero]

    /// Whether an identity is recorded that tells the parent from other files.
    package var tellsIdentity: Bool { identities.contains { $0 != .zero } }

    /// `identities` as the tools of the parent's format print them.
    package var identityTexts: [String] {
        let format = format.flatMap { Registry.format(named: $0) }
        return identities.filter { $0 != .zero }.map { format?.text(of: $0) ?? $0.plainText }
    }

    /// Makes a reference of its parts; `recorded` is what the paths say unless it is given.
    package init(
        paths: [Path], recorded: [String]? = nil, format: String?, identities: [GUID] = [], endsChain: Bool = false
    ) {
        self.paths = paths
        self.recorded = recorded ?? paths.map(\.text)
        self.format = format
        self.identities = identities
        self.endsChain = endsChain
    }
}

/// An internal snapshot: a second disk inside the same image.
package struct SnapshotInfo: Sendable {
    /// The identifier that the image gives it; unique within the image.
    package var id: String
    /// The name that a user gave it; may be empty or hold any character.
    package var name: String
    /// The size of the disk when the snapshot was taken, in bytes.
    package var virtualSize: UInt64
    /// When it was taken, in seconds since 1970.
    package var date: Int64

    /// Makes a description of its parts.
    package init(id: String, name: String, virtualSize: UInt64, date: Int64) {
        self.id = id
        self.name = name
        self.virtualSize = virtualSize
        self.date = date
    }
}

/// Turns the stored bytes of one allocation unit back into the unit. Stateless: many threads use one at once.
package protocol BlockDecoder: Sendable {
    /// The size of a decoded unit in bytes, at most 2 MiB.
    var unitBytes: Int { get }

    /// Decodes `input` into `output`, which is exactly `unitBytes` long. What lies behind the stream in `input` is
    /// ignored. Throws `.corrupt` when the input does not fill the output.
    func decode(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) throws(ImageError)
}
