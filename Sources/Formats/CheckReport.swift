/// What a check of an image found.
package struct CheckReport: Sendable {
    /// How bad a finding is.
    package enum Severity: String, Sendable {
        /// The disk may read wrongly, or a write may destroy something.
        case corruption
        /// Space that nothing uses and nothing gives out; harmless otherwise.
        case leak
        /// Worth knowing, and neither of the two.
        case note
    }

    /// One finding.
    package struct Finding: Sendable {
        /// How bad it is.
        package var severity: Severity
        /// What it is, a sentence without a full stop.
        package var what: String
        /// Where in the image file it is, in bytes, if it has a place.
        package var offset: UInt64?
        /// Whether it was repaired.
        package var isRepaired: Bool
    }

    /// At most so many findings are kept; all are counted.
    package static let kept = 1000

    /// The first findings, in the order in which they were made.
    package private(set) var findings: [Finding] = []
    /// How many corruptions are left, those that were repaired not counted.
    package private(set) var corruptions: UInt64 = 0
    /// How many leaks are left.
    package private(set) var leaks: UInt64 = 0
    /// How many corruptions were repaired.
    package private(set) var corruptionsRepaired: UInt64 = 0
    /// How many leaks were repaired.
    package private(set) var leaksRepaired: UInt64 = 0
    /// How many bytes of the disk the image holds, as whole allocation units.
    package var allocatedBytes: UInt64 = 0
    /// Where the last byte in use of the image file is followed by none, in bytes.
    package var imageEnd: UInt64 = 0

    /// An empty report.
    package init() {}

    /// Adds a finding that stands for `count` alike.
    package mutating func add(
        _ severity: Severity, _ what: @autoclosure () -> String, at offset: UInt64? = nil, isRepaired: Bool = false,
        count: UInt64 = 1
    ) {
        switch (severity, isRepaired) {
        case (.corruption, false): corruptions += count
        case (.corruption, true): corruptionsRepaired += count
        case (.leak, false): leaks += count
        case (.leak, true): leaksRepaired += count
        case (.note, _): break
        }
        guard findings.count < Self.kept else { return }
        findings.append(Finding(severity: severity, what: what(), offset: offset, isRepaired: isRepaired))
    }
}
