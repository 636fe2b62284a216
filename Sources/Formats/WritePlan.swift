package import Bytes

/// Where one write goes and what must be filled around it: the promise between `reserve` and `publish`.
///
/// It cannot be copied, so a plan is published or cancelled once.
package struct WritePlan: ~Copyable, Sendable {
    /// A range next to the write that must hold defined bytes before the plan is published.
    package struct Fill: Sendable {
        /// The guest range to fill.
        package var range: ByteRange
        /// Where its bytes go.
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
    /// Where the bytes of `range` go, all of them `.data`.
    package let runs: ExtentList
    /// What to fill before publishing; empty for a plan that writes in place.
    package let fills: [Fill]
    /// The driver's own note to itself.
    package let token: UInt64

    /// Makes a plan of its parts.
    package init(range: ByteRange, runs: ExtentList, fills: [Fill], token: UInt64) {
        self.range = range
        self.runs = runs
        self.fills = fills
        self.token = token
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

    /// The pages of each phase in order. A barrier on every file of the image follows each phase.
    package var phases: [[Page]]
    /// What the batch no longer points to; may be reclaimed when the batch is durable.
    package var freed: [HostRun]

    /// Makes a batch of its parts.
    package init(phases: [[Page]], freed: [HostRun]) {
        self.phases = phases
        self.freed = freed
    }
}
