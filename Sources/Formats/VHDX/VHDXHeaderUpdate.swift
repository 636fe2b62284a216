internal import Bytes
internal import Storage

/// The header as a writer changes it: always the copy that is not in force, and durable before the next one
/// ([MS-VHDX] 2.2.2.1), so that one whole copy is there whatever happens.
struct VHDXHeaderUpdate {
    /// A field of the header that a writer sets; the value is its place in bytes.
    enum Field: Int {
        case fileWriteGUID = 16
        case dataWriteGUID = 32
        case logGUID = 48
    }

    private let storage: any Storage
    private var bytes: [UInt8]
    private var slot: Int
    private var sequence: UInt64

    /// Begins with the copy that is in force, every byte of it: what is not known here survives. Throws `.io`.
    init(_ storage: any Storage, _ header: VHDXHeader) throws(ImageError) {
        self.storage = storage
        slot = header.slot
        sequence = header.sequence
        bytes = try storage.bytes(at: HostOffset(VHDXHeader.places[slot - 1]), count: VHDXHeader.bytes)
    }

    /// Sets fields and makes the other copy the one in force; durable when this returns. After a failure either copy may
    /// be in force, and the writer must give up. Throws `.unsupported` when the numbers are used up, and what writing
    /// throws.
    mutating func set(_ fields: [(Field, GUID)]) throws(ImageError) {
        guard let next = sequence.checkedAdding(1) else {
            throw ImageError(.unsupported, "the header's sequence number cannot grow any further")
        }
        for (field, value) in fields { VHDXEncode.put(value, into: &bytes, at: field.rawValue) }
        VHDXEncode.put(next, into: &bytes, at: 8)
        VHDXEncode.seal(&bytes)
        try storage.write(at: HostOffset(VHDXHeader.places[2 - slot]), bytes)
        try storage.flush()
        slot = 3 - slot
        sequence = next
    }

    /// Makes the older copy equal to the one in force but for its number, so that the loss of either changes nothing.
    /// Throws like `set`.
    mutating func level() throws(ImageError) { try set([]) }
}
