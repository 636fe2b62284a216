internal import Bytes
internal import Storage

/// The log as a ring of 4 KiB sectors, read and checked in a stream ([MS-VHDX] 2.3).
///
/// Work and memory stay within a small multiple of the log's size whatever it holds: every sector of an entry after the
/// first has a signature of its own, so that looking at a false entry ends at the next place where one could begin.
struct VHDXLog {
    /// An entry that has passed every check.
    struct Entry: BitwiseCopyable {
        /// Where it begins, in bytes from the start of the log.
        var position: UInt64
        /// Its length in bytes, a multiple of 4096.
        var length: UInt64
        /// Where the sequence begins that this entry ends, in bytes from the start of the log.
        var tail: UInt64
        /// Its sequence number, never 0.
        var sequence: UInt64
        /// How many descriptors it has.
        var descriptorCount: Int
        /// A file size that was durable when the entry was written.
        var flushedFileOffset: UInt64
        /// A file size that holds every structure.
        var lastFileOffset: UInt64

        /// How many sectors the header and the descriptors take: 126 descriptors in the first, 128 in each other.
        var descriptorSectors: UInt64 { 1 + UInt64(max(0, descriptorCount - 126)).dividedRoundingUp(by: 128) }
    }

    /// One descriptor: a page or a range of the file that the entry replaces.
    struct Descriptor: BitwiseCopyable {
        /// Whether the range becomes zeros; otherwise it is one page of 4 KiB.
        var isZero: Bool
        /// The first byte in the file, a multiple of 4096.
        var offset: UInt64
        /// The length of a zero range in bytes, a multiple of 4096.
        var zeroLength: UInt64
        /// The first 8 bytes of the page, which the data sector has no room for.
        var leading: UInt64
        /// The last 4 bytes of the page.
        var trailing: UInt32
    }

    /// The size of a sector of the log, and of the pages it replaces.
    static let sectorBytes: UInt64 = 4096

    private static let windowBytes: UInt64 = 64 << 10

    /// The length of the log in bytes.
    let length: UInt64

    private let storage: any Storage
    private let offset: UInt64
    private let guid: GUID
    private var window = [UInt8](repeating: 0, count: 64 << 10)
    private var windowStart = UInt64.max
    private var paddingLeft: UInt64

    /// The log that `header` names. Throws `.corrupt` when the file ends within it.
    init(_ storage: any Storage, _ header: VHDXHeader) throws(ImageError) {
        self.storage = storage
        offset = header.logOffset
        length = header.logLength
        guid = header.logGUID
        paddingLeft = 2 * header.logLength
        guard storage.holds(HostOffset(offset), count: length) else {
            throw ImageError(.corrupt, "the file ends within its log, which is in use; it is truncated", at: offset)
        }
    }

    /// The entries to replay, in order: the run whose head has the largest sequence number among all runs of valid
    /// entries that hold the place where their head's sequence begins. Nil where there is none. Throws `.io`.
    mutating func activeSequence() throws(ImageError) -> [Entry]? {
        var best: [Entry] = []
        var position: UInt64 = 0
        while position < length {
            let run = try run(from: position)
            guard let head = run.last else {
                position += Self.sectorBytes
                continue
            }
            if head.sequence > best.last?.sequence ?? 0, let first = run.firstIndex(where: { $0.position == head.tail })
            {
                best = Array(run[first...])
            }
            // Where the run is no sequence, neither is any part of it: they share the head, whose tail is elsewhere.
            position += run.reduce(0) { $0 + $1.length }
        }
        return best.isEmpty ? nil : best
    }

    /// Where byte `distance` after `position` lies in the ring.
    func wrapped(_ position: UInt64, _ distance: UInt64) -> UInt64 { (position + distance) % length }

    /// The descriptor of an entry at `index`. Throws `.io`.
    mutating func descriptor(_ index: Int, of entry: Entry) throws(ImageError) -> Descriptor {
        // The first sector gives the place of two descriptors to the entry's header.
        let byte = UInt64(index + 2) * 32
        let at = try load(wrapped(entry.position, byte / Self.sectorBytes * Self.sectorBytes))
        let span = window.span.bytes
        let start = at + Int(byte % Self.sectorBytes)
        return Descriptor(
            isZero: span.hasASCII("zero", at: start), offset: span.little(at: start + 16),
            zeroLength: span.little(at: start + 8), leading: span.little(at: start + 8),
            trailing: span.little(at: start + 4))
    }

    // MARK: - Finding entries

    /// Valid entries from `position` on, each with the number after its predecessor's, at most once around.
    private mutating func run(from position: UInt64) throws(ImageError) -> [Entry] {
        var entries: [Entry] = []
        var used: UInt64 = 0
        while used < length, let entry = try entry(at: wrapped(position, used)) {
            if let last = entries.last, entry.sequence != last.sequence &+ 1 { break }
            guard entry.length <= length - used else { break }
            entries.append(entry)
            used += entry.length
        }
        return entries
    }

    /// The entry at `position`, or nil when what is there is not a valid one.
    private mutating func entry(at position: UInt64) throws(ImageError) -> Entry? {
        guard let (entry, checksum) = try header(at: position) else { return nil }
        var crc = CRC32C()
        var dataLeft: UInt64 = 0
        var descriptorsLeft = entry.descriptorCount
        var padding: UInt64 = 0
        defer { paddingLeft -= padding }
        for sector in 0..<(entry.length / Self.sectorBytes) {
            let at = try load(wrapped(position, sector * Self.sectorBytes))
            let span = window.span.bytes.extracting(at..<(at + Int(Self.sectorBytes)))
            if sector < entry.descriptorSectors {
                guard let found = Self.checkDescriptors(span, &descriptorsLeft, isFirst: sector == 0, entry.sequence)
                else { return nil }
                dataLeft += found
            } else if dataLeft > 0 {
                guard Self.isData(span, of: entry.sequence) else { return nil }
                dataLeft -= 1
            } else {
                // An entry may be longer than what it holds. Checksums over such space have a limit, since it may look
                // like anything, further entries included.
                guard padding < paddingLeft else { return nil }
                padding += Self.sectorBytes
            }
            if sector == 0 {
                crc.add(span, at: 0, count: 4)
                crc.addZeros(4)
                crc.add(span, at: 8, count: Int(Self.sectorBytes) - 8)
            } else {
                crc.add(span, at: 0, count: Int(Self.sectorBytes))
            }
        }
        return dataLeft == 0 && crc.value == checksum ? entry : nil
    }

    /// The fields of an entry's header that are right on their own, and its checksum.
    private mutating func header(at position: UInt64) throws(ImageError) -> (entry: Entry, checksum: UInt32)? {
        let at = try load(position)
        let span = window.span.bytes.extracting(at..<(at + 64))
        guard span.hasASCII("loge"), GUID(span, at: 32) == guid else { return nil }
        let entry = Entry(
            position: position, length: UInt64(span.little(UInt32.self, at: 8)),
            tail: UInt64(span.little(UInt32.self, at: 12)), sequence: span.little(at: 16),
            descriptorCount: Int(span.little(UInt32.self, at: 24)), flushedFileOffset: span.little(at: 48),
            lastFileOffset: span.little(at: 56))
        guard entry.length > 0, entry.length <= length, entry.length % Self.sectorBytes == 0,
            entry.tail < length, entry.tail % Self.sectorBytes == 0, entry.sequence > 0,
            entry.descriptorSectors <= entry.length / Self.sectorBytes
        else { return nil }
        return (entry, span.little(at: 4))
    }

    /// Checks a sector's descriptors and returns how many of them have a data sector; nil when one is malformed.
    private static func checkDescriptors(
        _ span: RawSpan, _ left: inout Int, isFirst: Bool, _ sequence: UInt64
    ) -> UInt64? {
        var found: UInt64 = 0
        var start = isFirst ? 64 : 0
        while left > 0, start < span.byteCount {
            guard span.little(UInt64.self, at: start + 24) == sequence,
                span.little(UInt64.self, at: start + 16) % sectorBytes == 0
            else { return nil }
            if span.hasASCII("desc", at: start) {
                found += 1
            } else {
                guard span.hasASCII("zero", at: start), span.little(UInt64.self, at: start + 8) % sectorBytes == 0
                else { return nil }
            }
            left -= 1
            start += 32
        }
        return found
    }

    private static func isData(_ span: RawSpan, of sequence: UInt64) -> Bool {
        span.hasASCII("data")
            && span.little(UInt32.self, at: 4) == UInt32(truncatingIfNeeded: sequence >> 32)
            && span.little(UInt32.self, at: 4092) == UInt32(truncatingIfNeeded: sequence)
    }

    /// Brings the sector at `position` of the log into the window and returns where it is there.
    private mutating func load(_ position: UInt64) throws(ImageError) -> Int {
        let start = position / Self.windowBytes * Self.windowBytes
        if start != windowStart {
            windowStart = .max
            var failure: ImageError?
            window.withUnsafeMutableBytes { buffer in
                do throws(ImageError) {
                    try storage.readAll(at: HostOffset(offset + start), into: buffer)
                } catch { failure = error }
            }
            if let failure { throw failure }
            windowStart = start
        }
        return Int(position - start)
    }
}
