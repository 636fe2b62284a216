internal import CDeflate
internal import CZlib
package import Storage

/// Decodes units stored as raw deflate streams (RFC 1951), as qcow and qcow2 keep them.
///
/// libdeflate does nearly all of it. It wants a stream with an end mark that fits the output; images also hold streams
/// that were cut when the unit was full, and those go through zlib, which stops where the output is full.
package struct DeflateDecoder: BlockDecoder {
    package let unitBytes: Int

    private static let pool = HandlePool(
        limit: 16, make: { libdeflate_alloc_decompressor() }, free: { libdeflate_free_decompressor($0) })

    /// A decoder of units of `unitBytes` bytes.
    package init(unitBytes: Int) { self.unitBytes = unitBytes }

    package func decode(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) throws(ImageError) {
        guard output.count == unitBytes else {
            throw ImageError(.outOfRange, "a compressed unit can only be decoded as a whole")
        }
        guard !inflateWhole(input, into: output) else { return }
        guard try inflateUntilFull(input, into: output) else {
            throw ImageError(.corrupt, "compressed data is damaged or too short")
        }
    }

    /// The quick way: true when the stream ended with its end mark and filled the output.
    private func inflateWhole(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        guard let handle = Self.pool.take() else { return false }
        defer { Self.pool.put(handle) }
        var used = 0
        var made = 0
        let result = libdeflate_deflate_decompress_ex(
            handle, input.baseAddress, input.count, output.baseAddress, output.count, &used, &made)
        return result == LIBDEFLATE_SUCCESS && made == output.count
    }

    /// The patient way: true as soon as the output is full, whatever comes behind in the stream.
    private func inflateUntilFull(
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer
    ) throws(ImageError) -> Bool {
        guard let source = input.baseAddress, let target = output.baseAddress else { return false }
        guard let available = UInt32(exactly: input.count), let room = UInt32(exactly: output.count) else {
            return false
        }
        var stream = z_stream()
        // zlib's interface is older than const; it does not write through next_in.
        stream.next_in = UnsafeMutablePointer(mutating: source.assumingMemoryBound(to: UInt8.self))
        stream.avail_in = available
        stream.next_out = target.assumingMemoryBound(to: UInt8.self)
        stream.avail_out = room
        // Negative window bits say that there is neither header nor checksum; 15 reads every smaller window too.
        guard inflateInit2_(&stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            throw ImageError(.io, "no memory to decompress data")
        }
        defer { inflateEnd(&stream) }
        _ = inflate(&stream, Z_SYNC_FLUSH)
        return stream.avail_out == 0
    }
}
