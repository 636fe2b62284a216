import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// Streams made by hand: a stored block is the simplest deflate stream, an RLE block the simplest zstd frame.
enum Streams {
    /// 2048 zero bytes and 2048 bytes of 0x5A, deflated by zlib with a window of 12 bits.
    static let deflated: [UInt8] = [
        237, 193, 1, 1, 0, 0, 0, 1, 32, 59, 253, 31, 98, 136, 42, 1, 0, 222, 20, 0, 184, 51,
    ]
    /// The same without an end mark, as a sync flush leaves it.
    static let withoutEnd: [UInt8] = [
        236, 193, 1, 1, 0, 0, 0, 1, 32, 59, 253, 31, 98, 136, 42, 1, 0, 222, 20, 0, 184, 51, 0, 0, 0, 255, 255,
    ]
    /// What both decode to.
    static let halves = [UInt8](repeating: 0, count: 2048) + [UInt8](repeating: 0x5A, count: 2048)

    /// A deflate stream of one stored block, at most 65535 bytes.
    static func stored(_ bytes: [UInt8]) -> [UInt8] {
        let count = UInt16(bytes.count)
        return [1, UInt8(count & 255), UInt8(count >> 8), UInt8(~count & 255), UInt8(~count >> 8)] + bytes
    }

    /// A zstd frame (RFC 8878) of `count` times `byte`, at most 128 KiB.
    static func frame(_ byte: UInt8, count: UInt32, isLast: Bool = true) -> [UInt8] {
        let block = count << 3 | 1 << 1 | (isLast ? 1 : 0)
        let size = (0..<4).map { UInt8(truncatingIfNeeded: count >> UInt32($0 * 8)) }
        return [0x28, 0xB5, 0x2F, 0xFD, 0xA0] + size
            + (0..<3).map { UInt8(truncatingIfNeeded: block >> UInt32($0 * 8)) }
            + [byte]
    }
}

@Suite struct QCOW2CompressedTests {
    @Test func compressedClustersMayLieAnywhereAndShareSectors() throws {
        var builder = QCOW2Builder(size: 16 * 4096)
        var random = SeededRandom(seed: 3)
        let noise = random.bytes(4096)
        // From an odd byte on: over sectors, over the border of a cluster, several in one sector, in any order.
        _ = builder.pack([UInt8](repeating: 0xEE, count: 4096 - 300))
        for (index, stream) in [Streams.deflated, Streams.stored(noise), Streams.withoutEnd, Streams.deflated]
            .enumerated()
        {
            let offset = builder.pack(stream)
            builder.clusters[UInt64(15 - index)] = (builder.compressed(at: offset, count: stream.count), 0)
        }
        let reader = try builder.open()
        #expect(try reader.bytes(15 * 4096, 4096) == Streams.halves)
        #expect(try reader.bytes(14 * 4096, 4096) == noise)
        #expect(try reader.bytes(13 * 4096, 4096) == Streams.halves)
        #expect(try reader.bytes(12 * 4096, 4096) == Streams.halves)
        #expect(try reader.bytes(14 * 4096 + 100, 5000 - 100) == Array((noise + Streams.halves)[100..<5000]))
        try checkFormatDriver(reader.driver)
    }

    @Test func theLastClusterOfADiskDecodesToAWholeOne() throws {
        var builder = QCOW2Builder(size: 4096 + 2560)
        builder.clusters[1] = (builder.compressed(at: builder.pack(Streams.deflated), count: 22), 0)
        #expect(try builder.open().bytes(4096, 2560) == Array(Streams.halves[..<2560]))
    }

    @Test func storedBytesMayReachPastTheEndOfTheFile() throws {
        var builder = QCOW2Builder()
        // The L2 table is already in the file; the streams follow as the last bytes of it.
        builder.clusters[0] = (1 << 62 | 0x4FF0, 0)
        builder.clusters[1] = (1 << 62 | 0x4FF0 | 3 << 58, 0)
        var bytes = builder.build()
        bytes += [UInt8](repeating: 0, count: 0x4FF0 - bytes.count) + Streams.deflated
        let reader = try QCOW2Builder.open(bytes + [UInt8](repeating: 0, count: 5))
        let error1 = imageError { _ = try reader.bytes(0, 4096) }
        #expect(error1?.kind == .corrupt, "16 bytes are too few")
        #expect(try reader.bytes(4096, 4096) == Streams.halves)
        let short = try QCOW2Builder.open(Array(bytes.dropLast(8)))
        let error2 = imageError { _ = try short.bytes(4096, 4096) }
        #expect(error2?.kind == .corrupt, "a stream cut by the end of the file")
    }

    @Test(arguments: [1, 2] as [UInt32])
    func zstdClustersMayHaveSeveralFrames(frames: UInt32) throws {
        var builder = QCOW2Builder(size: 1 << 20)
        builder.incompatible = 8
        builder.compression = 1
        var stream: [UInt8] = []
        for index in 0..<frames { stream += Streams.frame(UInt8(index + 7), count: 4096 / frames) }
        builder.clusters[2] = (builder.compressed(at: builder.pack(stream + [1, 2, 3]), count: stream.count + 3), 0)
        let reader = try builder.open()
        let bytes = try reader.bytes(2 * 4096, 4096)
        #expect(bytes == (0..<4096).map { UInt8(UInt32($0) / (4096 / frames) + 7) })
        #expect(reader.driver.shape.fact("compressionType") == .text("zstd"))
    }
}

/// The decoders on their own.
@Suite struct DecoderTests {
    private func decode(_ decoder: some BlockDecoder, _ input: [UInt8]) throws -> [UInt8] {
        var unit = [UInt8](repeating: 0xA5, count: decoder.unitBytes)
        try input.withUnsafeBytes { input in try unit.withUnsafeMutableBytes { try decoder.decode(input, into: $0) } }
        return unit
    }

    @Test func deflateFillsItsOutputOrThrows() throws {
        let decoder = DeflateDecoder(unitBytes: 4096)
        #expect(try decode(decoder, Streams.deflated) == Streams.halves)
        #expect(try decode(decoder, Streams.deflated + [1, 2, 3, 255]) == Streams.halves, "bytes behind the stream")
        #expect(try decode(decoder, Streams.withoutEnd) == Streams.halves)
        #expect(try decode(DeflateDecoder(unitBytes: 2048), Streams.deflated) == Array(Streams.halves[..<2048]))
        for input in [
            [], [0], Array(Streams.deflated[..<12]), Streams.stored([1, 2, 3]), [7, 7, 7], [255, 255, 255],
        ] {
            let error3 = imageError { _ = try decode(decoder, input) }
            #expect(error3?.kind == .corrupt)
        }
        let error4 = imageError { _ = try decode(DeflateDecoder(unitBytes: 4097), Streams.deflated) }
        #expect(error4?.kind == .corrupt)
    }

    @Test func zstdFillsItsOutputOrThrows() throws {
        let decoder = ZstdDecoder(unitBytes: 4096)
        let whole = Streams.frame(9, count: 4096)
        let nines = [UInt8](repeating: 9, count: 4096)
        #expect(try decode(decoder, whole) == nines)
        #expect(try decode(decoder, whole + [1, 2, 3, 4, 5]) == nines, "bytes behind the frame")
        #expect(try decode(decoder, Streams.frame(9, count: 8192)) == nines, "a frame with more to give")
        #expect(try decode(decoder, Streams.frame(9, count: 4096, isLast: false)) == nines, "a frame without an end")
        for input in [
            [], [0], Array(whole.dropLast()), Streams.frame(9, count: 4095), [UInt8](repeating: 0, count: 512),
        ] {
            let error5 = imageError { _ = try decode(decoder, input) }
            #expect(error5?.kind == .corrupt)
        }
    }

    @Test func aZstdWindowBeyondTheLimitIsRefused() {
        // No single segment, a window descriptor of 2^41 bytes, no content size, and an endless raw block.
        let input: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD, 0, 0xF8, 0, 0x80, 0] + [UInt8](repeating: 1, count: 4096)
        let error6 = imageError { _ = try decode(ZstdDecoder(unitBytes: 8192), input) }
        #expect(error6?.kind == .corrupt)
    }

    @Test func manyThreadsDecodeAtOnce() throws {
        let deflate = DeflateDecoder(unitBytes: 4096)
        let zstd = ZstdDecoder(unitBytes: 4096)
        try concurrently(8) { thread in
            for round in 0..<200 {
                if (thread + round) % 2 == 0 {
                    let unit = try decode(deflate, round % 3 == 0 ? Streams.withoutEnd : Streams.deflated)
                    #expect(unit == Streams.halves)
                } else {
                    let frame = Streams.frame(UInt8(thread), count: 4096, isLast: round % 3 != 0)
                    let unit = try decode(zstd, frame)
                    #expect(unit == [UInt8](repeating: UInt8(thread), count: 4096))
                }
            }
        }
    }
}
