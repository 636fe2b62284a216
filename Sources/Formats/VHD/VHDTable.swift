internal import Bytes
internal import Storage

/// The block allocation table and the geometry of blocks (VHD specification, "Block Allocation Table and Data Blocks").
///
/// An entry is the absolute sector at which a block begins: first its bitmap, padded to sectors, then its data. Numbers
/// only, so that a reader carries no reference around.
struct VHDTable: BitwiseCopyable, Sendable {
    /// The entry of a block that the image does not hold.
    static let unused = UInt32.max

    /// Where the table begins in the file, in bytes.
    var offset: UInt64
    /// How many entries the table has, at least as many as the disk has blocks. Those past the disk's last block mean
    /// nothing: whoever enlarged the table may have left anything there.
    var entryCount: UInt64
    /// The size of the disk in bytes.
    var virtualSize: UInt64
    /// The logarithm of the block size.
    var blockShift: UInt64
    /// The bytes of a block's bitmap, a multiple of 512.
    var bitmapBytes: UInt64
    /// Where blocks must end in the file as it was opened, in bytes.
    var dataEnd: UInt64
    /// No metadata lies at or above this byte of the file, apart from the blocks' bitmaps.
    var metadataEnd: UInt64 = 0

    /// The bytes of disk in a block.
    var blockSize: UInt64 { 1 << blockShift }

    /// Checks that the table of `header` covers a disk of `virtualSize` bytes and lies in the file. Throws `.corrupt`.
    init(_ header: VHDDynamicHeader, virtualSize: UInt64, dataEnd: UInt64) throws(ImageError) {
        let entries = UInt64(header.maxTableEntries)
        guard entries * UInt64(header.blockSize) >= virtualSize else {
            throw ImageError(
                .corrupt, "the block allocation table is too short for the disk's size", at: header.tableOffset,
                detail:
                    "\(entries.counted("block")) of \(header.blockSize.counted("byte")) for \(virtualSize.counted("byte"))"
            )
        }
        guard let end = header.tableOffset.checkedAdding(entries * 4), end <= dataEnd else {
            throw ImageError(
                .corrupt, "the block allocation table does not lie in the file", at: header.tableOffset,
                detail: entries.counted("entry", "entries"))
        }
        self.init(
            offset: header.tableOffset, entryCount: entries, blockSize: UInt64(header.blockSize),
            virtualSize: virtualSize, dataEnd: dataEnd)
    }

    /// A table of parts that fit together; `blockSize` is a power of two, at least 512.
    init(offset: UInt64, entryCount: UInt64, blockSize: UInt64, virtualSize: UInt64, dataEnd: UInt64) {
        self.offset = offset
        self.entryCount = entryCount
        self.virtualSize = virtualSize
        blockShift = UInt64(blockSize.trailingZeroBitCount)
        bitmapBytes = (blockSize / 512).dividedRoundingUp(by: 8 * 512) * 512
        self.dataEnd = dataEnd
    }

    /// How many blocks the disk has, the last one maybe cut.
    var blockCount: UInt64 { virtualSize.dividedRoundingUp(by: blockSize) }

    /// Where the entry of `block` is.
    func entryOffset(_ block: UInt64) -> HostOffset { HostOffset(offset + block * 4) }

    /// How many bytes of the file an allocated `block` takes at least, bitmap included. The last block of a disk may be
    /// cut where the disk ends; blocks past the disk's end are whole.
    func byteCount(of block: UInt64) -> UInt64 {
        let start = block << blockShift
        return bitmapBytes + (start < virtualSize ? min(blockSize, virtualSize - start) : blockSize)
    }

    // MARK: - The layout of new blocks

    /// The bytes of the file that a whole block takes, bitmap included.
    var runBytes: UInt64 { bitmapBytes + blockSize }

    /// What a block's data begins on a multiple of: a page of the host's cache, where blocks are as large as that.
    private var alignment: UInt64 { min(blockSize, 4096) }

    /// How far the starts of new blocks are apart that follow each other.
    var pitch: UInt64 { (bitmapBytes + alignment - 1) / alignment * alignment + blockSize }

    /// The first place at or after byte `position` where a new block goes: its data begins on a page, its bitmap right
    /// before that. The caller has checked that `position` is far from the end of 64 bits.
    func alignedStart(_ position: UInt64) -> UInt64 {
        (position + bitmapBytes + alignment - 1) / alignment * alignment - bitmapBytes
    }
}

/// A part of the file that no block may overlap.
struct VHDMetadataPart: BitwiseCopyable, Sendable {
    /// The first byte.
    var start: UInt64
    /// The byte after the last one.
    var end: UInt64

    /// `count` bytes from `start` on; the caller has checked that they lie in the file.
    init(at start: UInt64, count: UInt64) {
        self.start = start
        end = start + count
    }
}
