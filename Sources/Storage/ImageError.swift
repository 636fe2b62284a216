/// The one error of everything below the mount.
///
/// `what` is a plain sentence fragment for a person ("the region table has a bad checksum"); the file's name is
/// added by whoever knows which file it was, see `ImageError.named(_:)`. On the read path nothing is allocated
/// until something is thrown.
package struct ImageError: Error, Sendable {
    /// What sort of failure it is; callers decide on this alone.
    package enum Kind: Sendable, Hashable {
        /// The host failed: `errno` says how.
        case io
        /// The bytes are not what the format's specification allows.
        case malformed
        /// Valid, but a feature that platter does not have.
        case unsupported
        /// A reference that leads outside the file, into metadata, or past what the file holds.
        case corrupt
        /// An argument outside the disk or the file.
        case outOfRange
        /// Writing to something that is open for reading.
        case readOnly
        /// No room on the host or in the format.
        case noSpace
        /// Locked by another program.
        case busy
        /// A rule of trust forbids opening what an image names.
        case denied
        /// A file that an image or a user names does not exist.
        case missing
    }

    /// The sort of failure.
    package var kind: Kind
    /// The error number of the host, or the one that a reader should see.
    package var errno: Int32
    /// Where in the host file, in bytes, if the failure has a place.
    package var offset: UInt64?
    /// What failed, as a fragment of a sentence without the file's name.
    package var what: StaticString
    /// A name or number that belongs to `what` (a feature, a path); nil on the read path.
    package var detail: String?
    /// The file that the failure is about; nil until somebody who knows it adds it.
    package var file: String?

    /// Describes a failure; `errno` defaults to the number that fits `kind` (EIO, EROFS, ENOSPC, …).
    package init(
        _ kind: Kind, _ what: StaticString, at offset: UInt64? = nil, errno: Int32? = nil, detail: String? = nil,
        file: String? = nil
    ) {
        self.kind = kind
        self.errno = errno ?? kind.defaultErrno
        self.offset = offset
        self.what = what
        self.detail = detail
        self.file = file
    }

    /// The same failure with the name of its file, unless it has one already.
    package func named(_ name: @autoclosure () -> String) -> ImageError {
        guard file == nil else { return self }
        var copy = self
        copy.file = name()
        return copy
    }
}
