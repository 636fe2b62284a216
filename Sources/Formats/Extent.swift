public import Bytes

/// Which of a driver's files an extent lies in: an index into `FormatDriver.files`, fixed after open.
@frozen
@usableFromInline
package struct FileSlot: RawRepresentable, Hashable, BitwiseCopyable, Sendable {
    /// The index into `files`.
    @usableFromInline
    package let rawValue: UInt16

    /// Makes the slot of index `rawValue`.
    @inlinable
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// The image file itself.
    @inlinable
    package static var image: FileSlot { FileSlot(rawValue: 0) }

    /// Whether both are the same file. Spelled out, since the one that comes with `RawRepresentable` is generic.
    @inlinable
    package static func == (left: Self, right: Self) -> Bool { left.rawValue == right.rawValue }
}

/// One run of the virtual disk and where one layer keeps it.
///
/// Trivial on purpose: no reference, so mapping costs neither an allocation nor reference counting.
@frozen
@usableFromInline
package struct Extent: BitwiseCopyable, Sendable {
    /// Where the bytes of a run are.
    @frozen
    @usableFromInline
    package enum Place: BitwiseCopyable, Sendable {
        /// Verbatim in a host file from `offset` on, the whole run inside the file: can be spliced.
        case data(file: FileSlot, offset: HostOffset)
        /// Compressed (later also encrypted): `length` bytes at `offset` decode to one unit of
        /// `BlockDecoder.unitBytes`, and the run begins `skip` bytes into it. The stored bytes may end with the file.
        case encoded(file: FileSlot, offset: HostOffset, length: UInt32, skip: UInt32)
        /// This layer says zeros, and hides what its parent has.
        case zero
        /// This layer is silent: the parent's bytes, or zeros where there is no parent.
        case hole
    }

    /// The length of the run in bytes, never 0 in a list.
    @usableFromInline
    package var length: UInt64
    /// Where the run is.
    @usableFromInline
    package var place: Place

    /// Makes a run of `length` bytes.
    @inlinable
    package init(length: UInt64, place: Place) {
        self.length = length
        self.place = place
    }
}

/// The answer to one `map`: up to 16 runs that follow each other from the start of the range asked for.
///
/// Appending joins a run to the one before where they continue each other, and clips it to the range, so that a
/// driver only walks its table and says what it sees.
@frozen
@usableFromInline
package struct ExtentList: Sendable {
    /// How many runs fit; a longer answer stops early and is asked for again from where it stopped.
    @inlinable
    package static var capacity: Int { 16 }

    /// The range that the runs answer.
    @usableFromInline
    package let range: ByteRange
    /// How many runs there are.
    @usableFromInline
    package internal(set) var count = 0
    /// How many bytes the runs cover together, from the start of `range`.
    @usableFromInline
    package internal(set) var covered: UInt64 = 0
    @usableFromInline
    var runs: InlineArray<16, Extent>

    /// An empty answer for `range`.
    @inlinable
    package init(for range: ByteRange) {
        self.range = range
        runs = InlineArray(repeating: Extent(length: 0, place: .hole))
    }

    /// The part of the range that no run covers yet.
    @inlinable
    package var remaining: ByteRange { range.dropping(first: covered) }

    /// Whether the runs cover the whole range.
    @inlinable
    package var isComplete: Bool { covered == range.length }

    /// The run at `index`, which must be below `count`.
    @inlinable
    package subscript(index: Int) -> Extent { runs[index] }

    /// Adds `length` bytes at `place` after the runs so far, clipped to the range. Returns false when nothing more can
    /// be added (the range is covered, or the list is full and this run does not continue the last one): stop then.
    @discardableResult
    @inlinable
    package mutating func append(_ place: Extent.Place, length: UInt64) -> Bool {
        let clipped = Swift.min(length, range.length - covered)
        guard clipped > 0 else { return false }
        if count > 0, Self.continues(runs[count - 1], with: place) {
            runs[count - 1].length += clipped
        } else {
            guard count < Self.capacity else { return false }
            runs[count] = Extent(length: clipped, place: place)
            count += 1
        }
        covered += clipped
        return covered < range.length
    }

    @inlinable
    static func continues(_ last: Extent, with place: Extent.Place) -> Bool {
        switch (last.place, place) {
        case (.zero, .zero), (.hole, .hole):
            return true
        case (.data(let file, let offset), .data(let nextFile, let nextOffset)):
            return file == nextFile && offset.rawValue &+ last.length == nextOffset.rawValue
        default:
            return false
        }
    }
}

/// A run of a host file that no metadata of this driver points to any more.
package struct HostRun: BitwiseCopyable, Sendable {
    /// The file it lies in.
    package var file: FileSlot
    /// Its first byte.
    package var offset: HostOffset
    /// Its length in bytes.
    package var length: UInt64

    /// Makes a run of its parts.
    package init(file: FileSlot, offset: HostOffset, length: UInt64) {
        self.file = file
        self.offset = offset
        self.length = length
    }
}
