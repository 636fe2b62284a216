internal import Bytes
internal import Storage

/// Changes of sector bitmaps ([MS-VHDX] 2.4). A block's bits begin and end with a byte: the smallest block has 256
/// sectors.
extension VHDXWriter {
    /// The bits of a block within its chunk's bitmap.
    private func blockBits(_ block: UInt64) -> Range<UInt64> {
        let first = table.bitmapBit(of: table.start(of: block))
        return first..<(first + table.blockSize / table.sectorSize)
    }

    /// Writes all bits of a block anew. What they said while the block was not PARTIALLY_PRESENT means nothing, and must
    /// not begin to mean something now. Throws `.io`.
    func rewriteBits(_ change: Change) throws(ImageError) {
        let all = blockBits(change.block)
        var bytes = [UInt8](repeating: 0, count: all.count / 8)
        let shift = all.lowerBound
        Self.set(&bytes, (change.bits.lowerBound - shift)..<(change.bits.upperBound - shift))
        try store.write(at: HostOffset(change.bitmap + shift / 8), bytes, phase: .later)
    }

    /// Sets the change's bits and leaves the others. Throws `.io`.
    func setBits(_ change: Change) throws(ImageError) {
        let first = change.bits.lowerBound / 8
        let last = (change.bits.upperBound - 1) / 8
        var bytes = [UInt8](repeating: 0, count: Int(last - first + 1))
        let place = HostOffset(change.bitmap + first)
        var failure: ImageError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(ImageError) { try store.read(at: place, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        Self.set(&bytes, (change.bits.lowerBound - first * 8)..<(change.bits.upperBound - first * 8))
        try store.write(at: place, bytes, phase: .later)
    }

    /// Whether all sectors of the change's block that the disk has are here: it is FULLY_PRESENT then, and reading it needs
    /// no bits. Throws `.io`.
    func isComplete(_ change: Change) throws(ImageError) -> Bool {
        let start = table.start(of: change.block)
        let length = table.length(of: change.block)
        // A block whose end the disk does not reach would keep bytes that were never written.
        guard length == table.blockSize else { return false }
        let run = try lookup.sectorRun(change.bitmap, from: start, to: start + length)
        return run.isHere && run.count == length / table.sectorSize
    }

    private static func set(_ bytes: inout [UInt8], _ bits: Range<UInt64>) {
        var bit = bits.lowerBound
        while bit < bits.upperBound {
            if bit % 8 == 0, bits.upperBound - bit >= 8 {
                bytes[Int(bit / 8)] = 0xFF
                bit += 8
            } else {
                bytes[Int(bit / 8)] |= 1 << UInt8(bit % 8)
                bit += 1
            }
        }
    }
}
