package import Bytes

/// Where one write goes and what must be filled around it: the promise between `reserve` and `publish`.
///
/// It cannot be copied, so a plan is published or cancelled once.
package struct WritePlan: ~Copyable, Sendable {
    /// A range next to the write that must hold defined bytes before the plan is published.
    package struct Fill: Sendable {
        /// The guest range to fill; it lies outside the plan's own range.
        package var range: ByteRange
        /// Where its bytes go; as long as `range`.
        package var target: HostRun
        /// Whether the host range is known to read as zeros already: where the disk reads zeros there too, nothing is
        /// written.
        package var isKnownZero: Bool

        /// Makes a fill of its parts.
        package init(range: ByteRange, target: HostRun, isKnownZero: Bool) {
            self.range = range
            self.target = target
            self.isKnownZero = isKnownZero
        }
    }

    /// The part of the range asked for that this plan covers: a prefix of it, never empty.
    package let range: ByteRange
    /// Where the bytes of `range` go, all of them `.data`, covering `range`.
    package let runs: ExtentList
    /// What to fill before publishing; may be empty.
    package let fills: [Fill]
    /// The driver's own note to itself.
    package let token: UInt64
    /// Whether all of `runs` is known to read as zeros on the host already: a write of zeros then writes nothing.
    package let isKnownZero: Bool

    /// Makes a plan of its parts.
    package init(
        range: ByteRange, runs: ExtentList, fills: [Fill], token: UInt64, isKnownZero: Bool = false
    ) {
        self.range = range
        self.runs = runs
        self.fills = fills
        self.token = token
        self.isKnownZero = isKnownZero
    }
}

/// What a released range shall read as.
package enum Release: Sendable {
    /// Zeros, whatever the parent holds.
    case readsZero
    /// What the parent holds there.
    case showsParent
    /// Anything: the guest has declared the content worthless.
    case anything
}

/// One commit's worth of metadata, frozen: what is published later belongs to the next batch.
package struct Batch: Sendable {
    /// Bytes to be written at one place of one file.
    package struct Page: Sendable {
        /// The file to write to.
        package var file: FileSlot
        /// Where.
        package var offset: HostOffset
        /// What.
        package var bytes: [UInt8]

        /// Makes a page of its parts.
        package init(file: FileSlot, offset: HostOffset, bytes: [UInt8]) {
            self.file = file
            self.offset = offset
            self.bytes = bytes
        }
    }

    /// Pages that may reach the disk in any order.
    package struct Phase: Sendable {
        /// What to write; may be empty, for the barrier's sake.
        package var pages: [Page]
        /// Whether a barrier on every file of the image follows. Only the last phase of a batch may do without: the next
        /// batch's first barrier is then the one that makes it durable.
        package var hasBarrier: Bool

        /// Makes a phase of its parts.
        package init(_ pages: [Page], hasBarrier: Bool = true) {
            self.pages = pages
            self.hasBarrier = hasBarrier
        }
    }

    /// The phases in order. The first barrier is also the one that makes the guest's bytes durable, so a batch has at
    /// least one phase with a barrier.
    package var phases: [Phase]
    /// What the batch no longer points to, besides what `publish` and `release` have named; may be reclaimed when the
    /// batch is durable.
    package var freed: [HostRun]

    /// Makes a batch of its parts.
    package init(phases: [Phase], freed: [HostRun] = []) {
        self.phases = phases
        self.freed = freed
    }
}
