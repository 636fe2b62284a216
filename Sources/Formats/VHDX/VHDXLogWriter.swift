internal import Bytes
internal import Storage

/// The log while it is in use: makes entries and says where they go ([MS-VHDX] 2.3).
///
/// Every sequence written here begins with its own first entry (Tail), because whoever asks for one has made durable what
/// the sequence before has logged. That earlier sequence is in force until the new one is durable, so it is the one
/// thing that must not be overwritten; everything else in the ring is free. The ring is used without ever being emptied,
/// and entries do not wrap.
struct VHDXLogWriter: Sendable {
    /// A page of 4 KiB that an entry replaces.
    struct Image: Sendable {
        /// Where it lies in the file, a multiple of 4096.
        var offset: UInt64
        /// Its 4096 bytes.
        var bytes: ArraySlice<UInt8>
    }

    /// Sizes of the file that go into entries, in bytes.
    struct FileSize: Sendable {
        /// Durable when the entry is written.
        var flushed: UInt64
        /// Holds everything that the table names.
        var last: UInt64

        /// Of a file that is `size` bytes long and will be flushed before the entry is written. Both are multiples of
        /// 1 MiB.
        init(_ size: UInt64) {
            flushed = size / VHDX.unit * VHDX.unit
            last = size.dividedRoundingUp(by: VHDX.unit) * VHDX.unit
        }
    }

    /// Some readers look at the first sector of an entry only, which has room for so many descriptors.
    static let maximumDescriptors = 126

    private static let sectorBytes = Int(VHDXLog.sectorBytes)
    private static let headerBytes = 64
    private static let descriptorBytes = 32

    /// What all entries carry, and the header that puts them in force.
    let guid: GUID

    private let offset: UInt64
    private let sectorCount: Int
    private var sequence: UInt64 = 1
    /// The sectors of the sequence in force.
    private var live = 0..<0
    /// The sectors of an entry that must outlast the batch.
    private var anchor = 0..<0

    /// An unused log of `length` bytes at `offset` of the file.
    init(at offset: UInt64, length: UInt64) {
        guid = VHDXEncode.randomGUID()
        self.offset = offset
        sectorCount = Int(length / VHDXLog.sectorBytes)
    }

    /// How many pages one sequence takes at least, however the ring lies.
    static func pagesAtLeast(logLength: UInt64) -> Int {
        // A sequence takes half of the ring at most, so of three gaps beside it and an anchor one has a sixth.
        min(maximumDescriptors, Int(logLength / VHDXLog.sectorBytes) / 6 - 2)
    }

    /// Whether one entry takes all of `count` pages.
    func fits(_ count: Int) -> Bool { count <= Self.maximumDescriptors && count + 1 <= room(for: count + 1).count }

    /// An entry without content, which is kept until `releaseAnchor`: with it in force, replay does nothing.
    mutating func makeAnchor(_ size: FileSize) -> Batch.Page {
        let start = room(for: 1).lowerBound
        anchor = start..<(start + 1)
        live = anchor
        return entry([], at: start, tail: start, size)
    }

    /// From here on the anchor may be overwritten once a later sequence is durable.
    mutating func releaseAnchor() { anchor = 0..<0 }

    /// The next sequence, with as many of `images` as there is room for, in their order; they are removed from there.
    mutating func sequence(of images: inout ArraySlice<Image>, _ size: FileSize) -> [Batch.Page] {
        let needed = images.count + images.count.dividedRoundingUp(by: Self.maximumDescriptors)
        var room = room(for: min(needed, sectorCount / 2)).prefix(sectorCount / 2)
        let start = room.lowerBound
        var entries: [Batch.Page] = []
        while !images.isEmpty, room.count >= 2 {
            let part = images.prefix(min(Self.maximumDescriptors, room.count - 1))
            images = images.dropFirst(part.count)
            entries.append(entry(part, at: room.lowerBound, tail: start, size))
            room = room.dropFirst(part.count + 1)
        }
        live = start..<room.lowerBound
        return entries
    }

    // MARK: - Room

    /// A gap of the ring beside what must be kept: the first behind it that has `wanted` sectors, or else the longest.
    private func room(for wanted: Int) -> Range<Int> {
        let kept = [live, anchor].filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
        var gaps: [Range<Int>] = []
        var position = 0
        for range in kept {
            if range.lowerBound > position { gaps.append(position..<range.lowerBound) }
            position = max(position, range.upperBound)
        }
        if position < sectorCount { gaps.append(position..<sectorCount) }
        let inOrder = gaps.filter { $0.lowerBound >= live.upperBound } + gaps.filter { $0.lowerBound < live.upperBound }
        return inOrder.first { $0.count >= wanted } ?? gaps.max { $0.count < $1.count } ?? 0..<0
    }

    // MARK: - Bytes

    private mutating func entry(
        _ images: ArraySlice<Image>, at start: Int, tail: Int, _ size: FileSize
    ) -> Batch.Page {
        var bytes: [UInt8] = []
        bytes.reserveCapacity((images.count + 1) * Self.sectorBytes)
        bytes += Array("loge".utf8)
        bytes.append(little: UInt32(0))
        bytes.append(little: UInt32((images.count + 1) * Self.sectorBytes))
        bytes.append(little: UInt32(tail * Self.sectorBytes))
        bytes.append(little: sequence)
        bytes.append(little: UInt32(images.count))
        bytes.append(little: UInt32(0))
        bytes.append(little: guid.low)
        bytes.append(little: guid.high)
        bytes.append(little: size.flushed)
        bytes.append(little: size.last)
        for image in images { appendDescriptor(image, &bytes) }
        let used = Self.headerBytes + images.count * Self.descriptorBytes
        bytes += repeatElement(0, count: Self.sectorBytes - used)
        for image in images { appendData(image, &bytes) }
        VHDXEncode.seal(&bytes)
        sequence += 1
        return Batch.Page(
            file: .image, offset: HostOffset(offset + UInt64(start * Self.sectorBytes)), bytes: bytes)
    }

    /// A data descriptor: it holds the first 8 and the last 4 bytes of the page, for which a data sector has no room.
    private func appendDescriptor(_ image: Image, _ bytes: inout [UInt8]) {
        bytes += Array("desc".utf8)
        bytes += image.bytes.suffix(4)
        bytes += image.bytes.prefix(8)
        bytes.append(little: image.offset)
        bytes.append(little: sequence)
    }

    private func appendData(_ image: Image, _ bytes: inout [UInt8]) {
        bytes += Array("data".utf8)
        bytes.append(little: UInt32(truncatingIfNeeded: sequence >> 32))
        bytes += image.bytes.dropFirst(8).dropLast(4)
        bytes.append(little: UInt32(truncatingIfNeeded: sequence))
    }
}

extension [UInt8] {
    /// Adds an integer, little-endian.
    fileprivate mutating func append(little value: some FixedWidthInteger) {
        Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
    }
}

extension Int {
    /// The quotient rounded up; neither number is negative, and `divisor` is not zero.
    fileprivate func dividedRoundingUp(by divisor: Int) -> Int { (self + divisor - 1) / divisor }
}
