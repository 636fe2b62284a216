internal import Bytes
internal import Storage

/// The header as a writer of the file keeps it: the 4 KiB of the copy in force, and the procedure that replaces it
/// ([MS-VHDX] 2.2.2.1).
///
/// An update is made of the current copy alone, so reserved bytes stay what they are, and goes to the place of the other
/// one. The caller puts a barrier between any two updates: only then is the copy that the second one overwrites no longer
/// the newest durable one.
struct VHDXHeaderUpdate {
    /// One copy ready to be written.
    struct Copy {
        /// Where it goes.
        var offset: HostOffset
        /// Its 4 KiB.
        var bytes: [UInt8]
    }

    private static let sequenceField = 8
    private static let fileWriteField = 16
    private static let dataWriteField = 32
    private static let logField = 48
    private static let logVersionField = 64

    private var bytes: [UInt8]
    private var slot: Int

    /// Takes the copy that `header` was read from. Throws `.io`, and `.corrupt` where no further update can be counted.
    init(_ storage: any Storage, _ header: VHDXHeader) throws(ImageError) {
        // Room for more updates than any session makes; a number near the end was not reached by counting.
        guard header.sequence < UInt64.max - 1 << 32 else {
            throw ImageError(
                .corrupt, "the header's sequence number leaves no room for an update",
                at: VHDXHeader.place(header.slot)
            )
        }
        bytes = try storage.bytes(at: HostOffset(VHDXHeader.place(header.slot)), count: VHDXHeader.byteCount)
        slot = header.slot
    }

    /// What the log entries in force carry; zero when there are none.
    var logGUID: GUID { GUID(bytes.span.bytes, at: Self.logField) }

    /// Sets a new FileWriteGuid: before anything else of the file changes in a session.
    mutating func renewFileWrite() {
        VHDXEncode.put(VHDXEncode.randomGUID(), into: &bytes, at: Self.fileWriteField)
    }

    /// Sets a new DataWriteGuid: before the first change that a reader of the disk can see.
    mutating func renewDataWrite() {
        VHDXEncode.put(VHDXEncode.randomGUID(), into: &bytes, at: Self.dataWriteField)
    }

    /// Sets the LogGuid; zero when everything in the log has been applied and is durable.
    mutating func setLog(_ guid: GUID) {
        VHDXEncode.put(guid, into: &bytes, at: Self.logField)
        // A header whose log is not in use may have any version here; entries are always of version 0.
        bytes.replaceSubrange(Self.logVersionField..<(Self.logVersionField + 2), with: [0, 0])
    }

    /// The next copy, with everything that was set; from now on it counts as the current one.
    mutating func next() -> Copy {
        let sequence: UInt64 = bytes.span.bytes.little(at: Self.sequenceField)
        VHDXEncode.put(sequence + 1, into: &bytes, at: Self.sequenceField)
        VHDXEncode.seal(&bytes)
        slot = 3 - slot
        return Copy(offset: HostOffset(VHDXHeader.place(slot)), bytes: bytes)
    }

    /// Writes the next copy and makes it durable. Throws `.noSpace` and `.io`; the copy before is in force then, and the
    /// update is to be thrown away.
    mutating func write(to storage: any Storage) throws(ImageError) {
        let copy = next()
        try storage.write(at: copy.offset, copy.bytes)
        try storage.flush()
    }
}
