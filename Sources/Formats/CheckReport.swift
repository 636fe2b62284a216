/// What a check of an image found.
///
/// Findings of one kind are one finding with many places: a damaged table has one thing wrong with it a million times. Of
/// each kind the first places are kept and all are counted, so that a report is small whatever an image holds.
package struct CheckReport: Sendable {
    /// How bad a finding is, the worst first.
    package enum Severity: String, Sendable, CaseIterable {
        /// The disk may read wrongly, or a write may destroy something.
        case corruption
        /// Space that nothing uses and nothing gives out; harmless otherwise.
        case leak
        /// Worth knowing, and neither of the two.
        case note
    }

    /// One place at which something was found.
    package struct Place: Sendable, Hashable {
        /// Which entry of which table it is, or which cluster: "BAT entry 12"; nil where it is no such thing.
        package var entry: String?
        /// Where in the image file it is, in bytes, if it has a place.
        package var offset: UInt64?
        /// What differs from place to place: "used 2 times, refcount 1"; nil where nothing does.
        package var detail: String?

        /// Makes a place of its parts.
        package init(entry: String? = nil, offset: UInt64? = nil, detail: String? = nil) {
            self.entry = entry
            self.offset = offset
            self.detail = detail
        }

        /// Whether there is nothing to say about it.
        var isEmpty: Bool { entry == nil && offset == nil && detail == nil }
    }

    /// Everything of one kind.
    package struct Finding: Sendable {
        /// How bad it is.
        package let severity: Severity
        /// What it is, a sentence without a full stop, the same for all places.
        package let what: String
        /// Whether it was repaired.
        package let isRepaired: Bool
        /// How often it was found.
        package fileprivate(set) var count: UInt64
        /// Where it was found first, at most `CheckReport.keptPlaces` places; fewer than `count` where places have no
        /// names.
        package fileprivate(set) var places: [Place]

        /// Where in the image file it was found first, in bytes.
        package var offset: UInt64? { places.first?.offset }
    }

    /// Of each kind at most so many places are kept; all are counted.
    package static let keptPlaces = 1000
    /// At most so many kinds are kept; the sentences of all checks together are fewer.
    package static let keptKinds = 200

    /// Every kind of finding, in the order in which the first of each was made.
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

    /// What each of `findings` is recognised by: sentences are compared by where they lie in the program, which takes no
    /// time however long they are.
    private var kinds: [FindingKind] = []
    private var last = 0

    /// An empty report.
    package init() {}

    /// Adds a finding at one place, or, of those that have no names, at `times` places. `count` is what it adds to the
    /// sum of corruptions or leaks, `times` where it is not given.
    package mutating func add(
        _ severity: Severity, _ what: StaticString, at offset: UInt64? = nil,
        _ entry: @autoclosure () -> String? = nil, detail: @autoclosure () -> String? = nil,
        isRepaired: Bool = false, times: UInt64 = 1, count: UInt64? = nil
    ) {
        tally(severity, count ?? times, isRepaired)
        guard let index = index(FindingKind(severity: severity, what: what, isRepaired: isRepaired)) else { return }
        let (sum, overflow) = findings[index].count.addingReportingOverflow(times)
        findings[index].count = overflow ? .max : sum
        guard findings[index].places.count < Self.keptPlaces else { return }
        let place = Place(entry: entry(), offset: offset, detail: detail())
        if !place.isEmpty { findings[index].places.append(place) }
    }

    private mutating func tally(_ severity: Severity, _ count: UInt64, _ isRepaired: Bool) {
        switch (severity, isRepaired) {
        case (.corruption, false): corruptions = Self.sum(corruptions, count)
        case (.corruption, true): corruptionsRepaired = Self.sum(corruptionsRepaired, count)
        case (.leak, false): leaks = Self.sum(leaks, count)
        case (.leak, true): leaksRepaired = Self.sum(leaksRepaired, count)
        case (.note, _): break
        }
    }

    private static func sum(_ first: UInt64, _ second: UInt64) -> UInt64 {
        let (sum, overflow) = first.addingReportingOverflow(second)
        return overflow ? .max : sum
    }

    private mutating func index(_ kind: FindingKind) -> Int? {
        if last < kinds.count, kinds[last] == kind { return last }
        if let found = kinds.firstIndex(of: kind) {
            last = found
            return found
        }
        guard kinds.count < Self.keptKinds else { return nil }
        kinds.append(kind)
        findings.append(
            Finding(
                severity: kind.severity, what: kind.what.description, isRepaired: kind.isRepaired, count: 0, places: [])
        )
        last = kinds.count - 1
        return last
    }

    // MARK: - Names of places

    /// Entry `index` of a table of which an image has one: "BAT entry 12".
    package static func entry(_ table: StaticString, _ index: UInt64) -> String { "\(table) entry \(index)" }

    /// Entry `index` of the table at byte `offset` of the file: "L2 table at 0x50000, entry 7".
    package static func entry(_ table: StaticString, at offset: UInt64, _ index: UInt64) -> String {
        "\(table) at \(hex(offset)), entry \(index)"
    }

    /// A place in a file as reports write it: hexadecimal.
    package static func hex(_ offset: UInt64) -> String { "0x" + String(offset, radix: 16) }
}

/// What makes two findings one.
private struct FindingKind: Equatable, Sendable {
    var severity: CheckReport.Severity
    var what: StaticString
    var isRepaired: Bool

    static func == (left: Self, right: Self) -> Bool {
        guard left.severity == right.severity, left.isRepaired == right.isRepaired else { return false }
        guard left.what.utf8Start != right.what.utf8Start else { return true }
        // The same sentence may stand in two places of the program.
        return left.what.utf8CodeUnitCount == right.what.utf8CodeUnitCount
            && left.what.description == right.what.description
    }
}
