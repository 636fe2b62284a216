internal import Bytes
internal import Storage

/// The kinds of VHD that there are (VHD specification, "Disk Type").
enum VHDDiskType: UInt32 {
    case fixed = 2
    case dynamic = 3
    case differencing = 4

    /// Whether the image has a table of blocks, and so a dynamic header and a copy of its footer at byte 0.
    var isSparse: Bool { self != .fixed }

    /// The word for people.
    var name: String {
        switch self {
        case .fixed: "fixed"
        case .dynamic: "dynamic"
        case .differencing: "differencing"
        }
    }
}

/// The 512-byte footer (VHD specification, "Hard Disk Footer Format"); everything is big-endian.
struct VHDFooter {
    /// The bytes of a footer. Images from before Virtual PC 2004 lack the last one, which is reserved and zero.
    static let byteCount = 512

    var dataOffset: UInt64
    /// Seconds since 2000-01-01T00:00:00Z.
    var timestamp: UInt32
    var creator: UInt32
    var creatorVersion: UInt32
    var originalSize: UInt64
    var currentSize: UInt64
    var cylinders: UInt16
    var heads: UInt8
    var sectorsPerTrack: UInt8
    var type: VHDDiskType
    var uniqueID: GUID
    var isSavedState: Bool
    /// Whether the checksum is that of the specification, and not the one that XenServer's early tools left.
    var hasExactSum: Bool
    /// All of it as it was read, for writing it elsewhere: what is not understood stays as it is.
    var bytes: [UInt8]

    /// Reads the 512 bytes of `span`, which lay at `offset` of the file. Throws `.malformed` for a wrong cookie,
    /// checksum or version, and `.unsupported` for a disk type without a meaning.
    init(_ span: RawSpan, at offset: UInt64) throws(ImageError) {
        guard span.hasASCII("conectix") else { throw ImageError(.malformed, "there is no VHD footer", at: offset) }
        guard Self.isIntact(span) else {
            throw ImageError(.malformed, "the VHD footer's checksum is wrong", at: offset)
        }
        let version = span.big(UInt32.self, at: 12)
        guard version >> 16 == 1 else {
            throw ImageError(.unsupported, "the VHD's format version is unknown", at: offset, detail: String(version))
        }
        guard let type = VHDDiskType(rawValue: span.big(at: 60)) else {
            throw ImageError(
                .unsupported, "the VHD's disk type is unknown or deprecated", at: offset,
                detail: String(span.big(UInt32.self, at: 60)))
        }
        self.type = type
        dataOffset = span.big(at: 16)
        timestamp = span.big(at: 24)
        creator = span.big(at: 28)
        creatorVersion = span.big(at: 32)
        originalSize = span.big(at: 40)
        currentSize = span.big(at: 48)
        cylinders = span.big(at: 56)
        heads = span.byte(at: 58)
        sectorsPerTrack = span.byte(at: 59)
        uniqueID = GUID(span, at: 68)
        isSavedState = span.byte(at: 84) != 0
        hasExactSum = OnesComplement.of(span, zeroing: 64) == span.big(UInt32.self, at: 64)
        bytes = span.copy(at: 0, count: Self.byteCount)
    }

    /// XenServer's early tools left their "hidden" mark at byte 85 out of the sum.
    private static func isIntact(_ span: RawSpan) -> Bool {
        let stored = span.big(UInt32.self, at: 64)
        let computed = OnesComplement.of(span, zeroing: 64)
        if computed == stored { return true }
        let isXen = span.big(UInt32.self, at: 28) == VHDCreator.xenServer
        return isXen && computed &+ UInt32(span.byte(at: 85)) == stored
    }

    /// Cylinders × heads × sectors in bytes, or nil where the geometry is absent or the largest there is, which only
    /// says that the size cannot be expressed (VHD specification, appendix "CHS Calculation").
    var geometrySize: UInt64? {
        if cylinders == 65535, heads == 16, sectorsPerTrack == 255 { return nil }
        let sectors = UInt64(cylinders) * UInt64(heads) * UInt64(sectorsPerTrack)
        return sectors == 0 ? nil : sectors * 512
    }

    /// The size of the disk in bytes, by the user's choice between the two that a footer has.
    func size(_ choice: FormatOptions.VHDSize) -> UInt64 {
        switch choice {
        case .current: currentSize
        case .chs: geometrySize ?? currentSize
        }
    }

    /// Whether two footers are about the same image: what a copy must share with the footer at the end.
    func agrees(with other: VHDFooter) -> Bool {
        dataOffset == other.dataOffset && type == other.type && uniqueID == other.uniqueID
    }
}

/// Creators that something depends on: four ASCII characters, the first one highest.
enum VHDCreator {
    /// "vpc ": Virtual PC, which sizes disks by their geometry.
    static let virtualPC: UInt32 = 0x7670_6320
    /// "qemu": QEMU without force_size, which does the same.
    static let qemu: UInt32 = 0x7165_6D75
    /// "tap": XenServer.
    static let xenServer: UInt32 = 0x7461_7000
    /// "win ": Windows, whose current size every program believes.
    static let windows: UInt32 = 0x7769_6E20
}

/// The 1024-byte header of dynamic and differencing images (VHD specification, "Dynamic Disk Header Format").
struct VHDDynamicHeader {
    /// The bytes of a header.
    static let byteCount = 1024

    /// The largest block that is read, in bytes: the bitmaps of larger ones would not be small any more.
    static let largestBlock: UInt32 = 256 << 20

    var tableOffset: UInt64
    var maxTableEntries: UInt32
    /// The bytes of disk in a block; the block's bitmap not counted.
    var blockSize: UInt32
    var parentID: GUID
    /// The whole header, for what is read once: the parent's name and locators.
    var bytes: [UInt8]

    /// Reads the header at `offset` of the file. Throws `.malformed` for a wrong cookie, checksum or block size,
    /// `.corrupt` where it does not lie in the file, `.unsupported` for another version, and `.io`.
    init(_ storage: any Storage, at offset: UInt64) throws(ImageError) {
        guard offset >= UInt64(VHDFooter.byteCount), storage.holds(HostOffset(offset), count: UInt64(Self.byteCount))
        else {
            throw ImageError(
                .corrupt, "the dynamic header lies outside the file", detail: "at byte \(offset) of \(storage.size)")
        }
        let bytes = try storage.bytes(at: HostOffset(offset), count: Self.byteCount)
        let span = bytes.span.bytes
        guard span.hasASCII("cxsparse") else {
            if span.isZero(at: 0, count: Self.byteCount) {
                throw ImageError(
                    .malformed, "the dynamic header is zeros: the beginning of the file is lost, or was never written",
                    at: offset)
            }
            throw ImageError(.malformed, "there is no dynamic header where the footer says", at: offset)
        }
        guard OnesComplement.of(span, zeroing: 36) == span.big(UInt32.self, at: 36) else {
            throw ImageError(.malformed, "the dynamic header's checksum is wrong", at: offset)
        }
        let version = span.big(UInt32.self, at: 24)
        guard version >> 16 == 1 else {
            throw ImageError(
                .unsupported, "the dynamic header's version is unknown", at: offset, detail: String(version))
        }
        tableOffset = span.big(at: 16)
        maxTableEntries = span.big(at: 28)
        parentID = GUID(span, at: 40)
        let blockSize: UInt32 = span.big(at: 32)
        guard blockSize >= 512, blockSize <= Self.largestBlock, UInt64(blockSize).isPowerOfTwo else {
            throw ImageError(
                .malformed, "the block size is not a power of two from 512 bytes to 256 MiB", at: offset,
                detail: String(blockSize))
        }
        self.blockSize = blockSize
        self.bytes = bytes
    }
}
