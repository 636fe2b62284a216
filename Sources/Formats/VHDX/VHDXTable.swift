internal import Bytes
internal import Storage

/// The geometry of the block allocation table ([MS-VHDX] 2.5): payload entries, and after each chunk's share of them
/// one entry for the chunk's sector bitmap.
struct VHDXTable: BitwiseCopyable {
    /// The first byte of the table in the host file.
    let offset: UInt64
    /// The size of a block in bytes.
    let blockSize: UInt64
    /// The size of the disk in bytes.
    let virtualSize: UInt64
    /// How many payload blocks the disk has.
    let blockCount: UInt64
    /// How many entries the table has, sector bitmaps included.
    let entryCount: UInt64
    /// Whether NOT_PRESENT means the parent, and sector bitmaps are in use.
    let hasParent: Bool

    private let blockShift: UInt64
    private let sectorShift: UInt64
    private let ratioShift: UInt64

    /// The size of an entry in bytes.
    static let entryBytes: UInt64 = 8
    /// The size of a sector bitmap in bytes: a bit for each sector of a chunk.
    static let bitmapBytes: UInt64 = 1 << 20

    /// Payload entries a chunk: a power of two from 16 to 32768.
    var chunkRatio: UInt64 { 1 << ratioShift }

    /// Throws `.malformed` when the BAT region cannot hold the table, `.corrupt` when the file ends within it.
    init(_ metadata: VHDXMetadata, _ region: VHDXSpan, in storage: any Storage) throws(ImageError) {
        offset = region.offset
        blockSize = metadata.blockSize
        virtualSize = metadata.virtualSize
        hasParent = metadata.hasParent
        blockShift = UInt64(blockSize.trailingZeroBitCount)
        sectorShift = UInt64(metadata.logicalSectorSize.trailingZeroBitCount)
        ratioShift = 23 + sectorShift - blockShift
        blockCount = virtualSize.dividedRoundingUp(by: blockSize)
        entryCount = Self.entryCount(blocks: blockCount, chunkRatio: 1 << ratioShift, hasParent: hasParent)
        guard entryCount * Self.entryBytes <= region.length else {
            throw ImageError(
                .malformed, "the block allocation table is too small for the disk", at: offset,
                detail: "\(region.length.counted("byte")) for \(entryCount.counted("entry", "entries"))")
        }
        guard storage.holds(HostOffset(offset), count: entryCount * Self.entryBytes) else {
            throw ImageError(.corrupt, "the file ends within the block allocation table; it is truncated", at: offset)
        }
    }

    /// How many entries a disk of so many blocks has, sector bitmaps included ([MS-VHDX] 2.5): a differencing disk's
    /// last chunk has all of them.
    static func entryCount(blocks: UInt64, chunkRatio: UInt64, hasParent: Bool) -> UInt64 {
        guard blocks > 0 else { return 0 }
        if hasParent { return blocks.dividedRoundingUp(by: chunkRatio) * (chunkRatio + 1) }
        return blocks + (blocks - 1) / chunkRatio
    }

    /// The block that a byte of the disk lies in.
    func block(of position: UInt64) -> UInt64 { position >> blockShift }

    /// The first byte of a block on the disk.
    func start(of block: UInt64) -> UInt64 { block << blockShift }

    /// How many bytes of a block the disk has: all but for the last one.
    func length(of block: UInt64) -> UInt64 { min(blockSize, virtualSize - start(of: block)) }

    /// The index of a payload block's entry.
    func entry(of block: UInt64) -> UInt64 { block + block >> ratioShift }

    /// How many payload blocks from `block` on have their entries side by side: those up to the chunk's end.
    func blocksInChunk(from block: UInt64) -> UInt64 { chunkRatio - block & (chunkRatio - 1) }

    /// The first payload block whose entry is at `index` or after it.
    func block(atEntry index: UInt64) -> UInt64 {
        let (chunk, rest) = index.quotientAndRemainder(dividingBy: chunkRatio + 1)
        return chunk << ratioShift + min(rest, chunkRatio)
    }

    /// The place of the entry at `index` in the host file.
    func place(ofEntry index: UInt64) -> HostOffset { HostOffset(offset + index * Self.entryBytes) }

    /// The index of the entry of the sector bitmap that a payload block belongs to.
    func bitmapEntry(of block: UInt64) -> UInt64 {
        (block >> ratioShift) * (chunkRatio + 1) + chunkRatio
    }

    /// The bit of its chunk's sector bitmap that a byte of the disk belongs to.
    func bitmapBit(of position: UInt64) -> UInt64 { position >> sectorShift & (Self.bitmapBytes * 8 - 1) }

    /// The size of a sector in bytes.
    var sectorSize: UInt64 { 1 << sectorShift }
}

/// One entry of the table ([MS-VHDX] 2.5.1).
struct VHDXEntry: BitwiseCopyable {
    /// What a payload entry's state says about reading.
    enum Content: BitwiseCopyable {
        /// NOT_PRESENT: the parent's, or zeros.
        case absent
        /// UNDEFINED, ZERO, UNMAPPED: zeros, which is always allowed, and never the parent.
        case zeros
        /// FULLY_PRESENT: the block's, without a look at the sector bitmap.
        case full
        /// PARTIALLY_PRESENT: the block's or the parent's, as the sector bitmap says.
        case partial
        /// A reserved state, or reserved bits that are set.
        case invalid
    }

    /// The entry as stored, in host byte order.
    let word: UInt64

    /// Where the block lies, in bytes: a multiple of 1 MiB.
    var offset: UInt64 { word & ~(VHDX.unit - 1) }

    /// The state of a payload entry.
    var content: Content {
        guard word & 0xFFFF8 == 0 else { return .invalid }
        return switch word & 7 {
        case 0: .absent
        case 1, 2, 3: .zeros
        case 6: .full
        case 7: .partial
        default: .invalid
        }
    }

    /// Whether a sector-bitmap entry says that there is a bitmap.
    var isBitmapPresent: Bool { word & 0xFFFFF == 6 }
}
