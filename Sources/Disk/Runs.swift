internal import Bytes
internal import Formats

/// One run of the flat disk and where it is, with every layer asked.
struct DiskRun: BitwiseCopyable {
    /// Where the bytes are.
    enum Source: BitwiseCopyable {
        /// Verbatim in a file of the layer that answered.
        case host(file: FileSlot, offset: HostOffset)
        /// In a stored unit of `length` bytes; the run begins `skip` bytes into the decoded unit.
        case encoded(file: FileSlot, offset: HostOffset, length: UInt32, skip: UInt32)
        /// A layer says zeros.
        case zero
        /// No layer has anything: zeros.
        case hole
    }

    /// The length in bytes, never 0 in a list.
    var length: UInt64
    /// Where the run is.
    var source: Source
    /// The layer that answered; for `.hole` the one below which nothing is left to ask.
    var layer: UInt16
}

/// Up to 16 runs of the disk that follow each other from the start of a range. Lives on the stack of a read.
struct RunList {
    static let capacity = 16

    /// The range that the runs answer.
    let range: ByteRange
    /// How many runs there are.
    private(set) var count = 0
    /// How many bytes the runs cover together.
    private(set) var covered: UInt64 = 0
    private var runs: InlineArray<16, DiskRun>
    private var walks = 0

    /// After so many long walks of drivers a list ends early: a small image can describe so many units that a walk over
    /// all of them would take days.
    private static let walkLimit = 16

    init(for range: ByteRange) {
        self.range = range
        runs = InlineArray(repeating: DiskRun(length: 0, source: .hole, layer: 0))
    }

    /// The part of the range that no run covers yet.
    var remaining: ByteRange { range.dropping(first: covered) }

    /// Whether the runs cover the whole range.
    var isComplete: Bool { covered == range.length }

    /// The run at `index`, which must be below `count`.
    subscript(index: Int) -> DiskRun { runs[index] }

    /// Whether there may be another long walk, after one that has added at least one run.
    mutating func mayWalkOn() -> Bool {
        walks += 1
        return walks < Self.walkLimit
    }

    /// Adds a run after those so far, joined to the last one where it continues it. False when the list is full.
    mutating func append(_ source: DiskRun.Source, length: UInt64, layer: UInt16) -> Bool {
        guard length > 0 else { return true }
        if count > 0, Self.continues(runs[count - 1], with: source, of: layer) {
            runs[count - 1].length += length
        } else {
            guard count < Self.capacity else { return false }
            runs[count] = DiskRun(length: length, source: source, layer: layer)
            count += 1
        }
        covered += length
        return true
    }

    private static func continues(_ last: DiskRun, with source: DiskRun.Source, of layer: UInt16) -> Bool {
        guard last.layer == layer else { return false }
        switch (last.source, source) {
        case (.zero, .zero), (.hole, .hole): return true
        case (.host(let file, let offset), .host(let nextFile, let nextOffset)):
            return file == nextFile && offset.rawValue &+ last.length == nextOffset.rawValue
        default: return false
        }
    }
}
