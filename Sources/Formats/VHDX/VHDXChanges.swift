internal import Bytes
internal import Storage

/// Gathers what the entries of a log change, in their order, and boils it down to what is left at the end.
struct VHDXChanges {
    /// One page of 4 KiB whose bytes are in the log.
    struct Page: BitwiseCopyable {
        /// The first byte in the file.
        var offset: UInt64
        /// Its first 8 bytes.
        var leading: UInt64
        /// Its last 4 bytes.
        var trailing: UInt32
        /// Where the data sector with the bytes between lies, from the start of the log.
        var dataPosition: UInt32
        /// Which change it is, counted over pages and zeroed ranges.
        var ordinal: UInt32

        /// The byte after the last one.
        var end: UInt64 { offset + VHDXLog.sectorBytes }
    }

    /// A range that becomes zeros.
    struct Zeros: BitwiseCopyable {
        /// The first byte in the file.
        var start: UInt64
        /// The byte after the last one.
        var end: UInt64
        /// Which change it is.
        var ordinal: UInt32
    }

    /// The end of the last change in the file.
    private(set) var end: UInt64 = 0

    /// Far more than a log of any writer holds; what counts is that there is a limit (24 MiB of memory).
    private static let maximumZeros = 1 << 20
    private static let firstChangeable: UInt64 = 192 << 10

    private let header: VHDXHeader
    private var pages: [UInt64: Page] = [:]
    private var zeros: [Zeros] = []
    private var ordinal: UInt32 = 0

    /// No changes yet.
    init(_ header: VHDXHeader) { self.header = header }

    /// Adds what `entry` changes. Throws `.corrupt` for a change of the file identifier, the headers or the log,
    /// `.unsupported` for too many zeroed ranges, and `.io`.
    mutating func add(_ entry: VHDXLog.Entry, from log: inout VHDXLog) throws(ImageError) {
        var data = entry.descriptorSectors
        for index in 0..<entry.descriptorCount {
            let descriptor = try log.descriptor(index, of: entry)
            let length = descriptor.isZero ? descriptor.zeroLength : VHDXLog.sectorBytes
            let limit = try checkedEnd(descriptor.offset, length)
            if descriptor.isZero {
                if length > 0 { try addZeros(descriptor.offset, to: limit) }
            } else {
                let position = log.wrapped(entry.position, data * VHDXLog.sectorBytes)
                pages[descriptor.offset] = Page(
                    offset: descriptor.offset, leading: descriptor.leading, trailing: descriptor.trailing,
                    dataPosition: UInt32(truncatingIfNeeded: position), ordinal: ordinal)
                data += 1
            }
            end = max(end, limit)
            ordinal &+= 1
        }
    }

    private func checkedEnd(_ offset: UInt64, _ length: UInt64) throws(ImageError) -> UInt64 {
        guard let end = offset.checkedAdding(length), end <= UInt64(Int64.max) else {
            throw ImageError(.corrupt, "the log changes bytes past the end of every file", at: offset)
        }
        guard offset >= Self.firstChangeable else {
            throw ImageError(.corrupt, "the log would change the file identifier or the headers", at: offset)
        }
        guard end <= header.logOffset || offset >= header.logOffset + header.logLength else {
            throw ImageError(.corrupt, "the log would change itself", at: offset)
        }
        return end
    }

    private mutating func addZeros(_ start: UInt64, to end: UInt64) throws(ImageError) {
        guard zeros.count < Self.maximumZeros else {
            throw ImageError(.unsupported, "the log zeroes more ranges than platter keeps track of")
        }
        zeros.append(Zeros(start: start, end: end, ordinal: ordinal))
    }

    /// What is left: pages that nothing later zeroed, and zeroed ranges joined, each sorted and without overlaps. Where
    /// both cover a byte, the page counts.
    consuming func finish() -> (pages: [Page], zeros: [Zeros]) {
        let sorted = pages.values.sorted { $0.offset < $1.offset }
        return (Self.surviving(sorted, zeros), Self.joined(zeros))
    }

    /// Drops the pages that a later range zeroes. The ranges are taken from the last to the first, so that the first to
    /// reach a page decides about it; `next` skips the pages that are decided.
    private static func surviving(_ pages: [Page], _ zeros: [Zeros]) -> [Page] {
        guard !zeros.isEmpty else { return pages }
        var next = Array(0...pages.count)
        var isDropped = [Bool](repeating: false, count: pages.count)
        func undecided(_ index: Int) -> Int {
            var index = index
            while next[index] != index {
                next[index] = next[next[index]]
                index = next[index]
            }
            return index
        }
        for range in zeros.reversed() {
            var low = 0
            var high = pages.count
            while low < high {
                let middle = (low + high) / 2
                if pages[middle].offset < range.start { low = middle + 1 } else { high = middle }
            }
            var index = undecided(low)
            while index < pages.count, pages[index].offset < range.end {
                isDropped[index] = pages[index].ordinal < range.ordinal
                next[index] = index + 1
                index = undecided(index)
            }
        }
        return pages.indices.filter { !isDropped[$0] }.map { pages[$0] }
    }

    private static func joined(_ zeros: [Zeros]) -> [Zeros] {
        var result: [Zeros] = []
        for range in zeros.sorted(by: { $0.start < $1.start }) {
            if let last = result.last, last.end >= range.start {
                result[result.count - 1].end = max(last.end, range.end)
            } else {
                result.append(range)
            }
        }
        return result
    }
}
