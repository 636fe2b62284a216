internal import CZstd
package import Storage

/// Decodes units stored as zstd frames (RFC 8878), one or more of them for a unit.
package struct ZstdDecoder: BlockDecoder {
    package let unitBytes: Int

    /// Windows up to 8 MiB: what every level below "ultra" makes. A larger one in the header of a frame that has to be
    /// streamed is refused, so that an image cannot ask for gigabytes.
    private static let windowLogLimit: Int32 = 23

    private static let pool = HandlePool(
        limit: 16, make: { ZSTD_createDCtx() }, free: { _ = ZSTD_freeDCtx($0) })

    /// A decoder of units of `unitBytes` bytes.
    package init(unitBytes: Int) { self.unitBytes = unitBytes }

    package func decode(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) throws(ImageError) {
        guard output.count == unitBytes else {
            throw ImageError(.outOfRange, "a compressed unit can only be decoded as a whole")
        }
        guard !decodeFrames(input, into: output) else { return }
        guard streamUntilFull(input, into: output) else {
            throw ImageError(.corrupt, "compressed data is damaged or too short")
        }
    }

    /// The quick way, straight into the output without a window of its own: true when whole frames fill it exactly.
    private func decodeFrames(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let source = input.baseAddress, let target = output.baseAddress else { return false }
        guard let context = Self.pool.take() else { return false }
        defer { Self.pool.put(context) }
        var used = 0
        var made = 0
        while made < output.count {
            let length = ZSTD_findFrameCompressedSize(source + used, input.count - used)
            guard ZSTD_isError(length) == 0, length > 0 else { return false }
            let count = ZSTD_decompressDCtx(context, target + made, output.count - made, source + used, length)
            guard ZSTD_isError(count) == 0 else { return false }
            used += length
            made += count
        }
        return true
    }

    /// The patient way: true as soon as the output is full, though the frame has no end or has more to give. Its
    /// context holds a window afterwards, so it is not kept.
    private func streamUntilFull(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let context = ZSTD_createDCtx() else { return false }
        defer { ZSTD_freeDCtx(context) }
        guard ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, Self.windowLogLimit)) == 0 else {
            return false
        }
        var source = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var target = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
        while target.pos < target.size {
            let before = (source.pos, target.pos)
            guard ZSTD_isError(ZSTD_decompressStream(context, &target, &source)) == 0 else { return false }
            guard (source.pos, target.pos) != before else { return false }
        }
        return true
    }
}
