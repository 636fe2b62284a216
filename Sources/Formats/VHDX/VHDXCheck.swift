internal import Bytes
package import Storage

extension VHDX {
    package static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        var check = VHDXCheck(request.storage)
        try check.run(repairs: repairs)
        return check.report
    }
}

/// Looks at everything in an image that can be wrong, from the headers on, as far as one part leads to the next.
///
/// An image with a log in use is judged as the log leaves it. What makes an image impossible to read is a finding like
/// any other, after which the check ends; only a file that is no VHDX at all, and one that needs something that is not
/// known here, are errors.
struct VHDXCheck {
    /// What was found.
    var report = CheckReport()
    /// What is to be repaired, as far as it was seen.
    var damage = VHDXDamage()

    let storage: any Storage

    /// A check of the image in `storage`.
    init(_ storage: any Storage) { self.storage = storage }

    /// Runs the check, and then the repairs where they are wanted. Throws `.malformed` for what is no VHDX,
    /// `.unsupported` and `.io`; `.noSpace` from a repair.
    mutating func run(repairs: Bool) throws(ImageError) {
        guard try VHDX.recognises(storage) else {
            throw ImageError(.malformed, "the file does not begin with the VHDX signature")
        }
        try checkHeaders()
        guard let foundation = try foundation() else { return try finish(nil, repairs: false) }
        checkLog(foundation)
        try checkRegions(foundation)
        try checkMetadata(foundation)
        var blocks = try VHDXCheckBlocks(foundation)
        do throws(ImageError) {
            try blocks.run(&report)
            // What follows an image on a block device is the device's.
            damage.trimmedSize = storage.hasFixedSize ? nil : blocks.trimmedSize
        } catch { try add(error) }
        try finish(foundation, repairs: repairs)
    }

    /// Opens what every reader needs; nil where that fails, which is a finding then.
    private mutating func foundation() throws(ImageError) -> VHDXFoundation? {
        do throws(ImageError) {
            let foundation = try VHDXFoundation(storage)
            // The size of the table is checked here too: nothing is known about blocks where it does not fit.
            _ = try VHDXTable(foundation.metadata, foundation.regions.table, in: foundation.view)
            return foundation
        } catch {
            try add(error)
            return nil
        }
    }

    /// Turns what a reader would refuse into a finding. Throws everything that says nothing about the image.
    private mutating func add(_ error: ImageError) throws(ImageError) {
        guard error.kind == .malformed || error.kind == .corrupt else { throw error }
        report.add(.corruption, error.what, at: error.offset, detail: error.detail)
    }

    // MARK: - Headers

    /// Both copies of the header ([MS-VHDX] 2.2.2). That neither is valid, and whatever else makes it impossible to choose,
    /// is left to the opening.
    private mutating func checkHeaders() throws(ImageError) {
        var copies: [[UInt8]] = []
        for slot in [1, 2] {
            let place = HostOffset(VHDXHeader.place(slot))
            guard storage.holds(place, count: UInt64(VHDXHeader.byteCount)) else { return }
            copies.append(try storage.bytes(at: place, count: VHDXHeader.byteCount))
        }
        let valid = copies.indices.filter { VHDXHeader.isValid(copies[$0]) }
        if valid.count == 1 { damage.header = 2 - valid[0] }
        for index in valid where copies[index][80...].contains(where: { $0 != 0 }) {
            report.add(
                .note, "a header has reserved bytes set", at: VHDXHeader.place(index + 1), "header \(index + 1)")
        }
    }

    // MARK: - Log

    private mutating func checkLog(_ foundation: VHDXFoundation) {
        let header = foundation.header
        guard header.logLength > 0 else {
            report.add(.note, "the image has no log, so that it can only be read")
            return
        }
        if !storage.holds(HostOffset(header.logOffset), count: header.logLength) {
            report.add(.corruption, "the file ends within its log", at: header.logOffset)
        }
        guard let replay = foundation.replay else { return }
        damage.logChanges = replay.changeCount
        if storage.size < replay.size {
            report.add(.note, "the file is shorter than its structures need; replaying the log extends it")
        }
    }

    // MARK: - Region table

    private mutating func checkRegions(_ foundation: VHDXFoundation) throws(ImageError) {
        let view = foundation.view
        var copies: [[UInt8]] = []
        for place in VHDXRegions.places {
            guard view.holds(HostOffset(place), count: UInt64(VHDXRegions.bytes)) else {
                copies.append([])
                continue
            }
            copies.append(try view.bytes(at: HostOffset(place), count: VHDXRegions.bytes))
        }
        let valid = copies.map { !$0.isEmpty && VHDXRegions.isValid($0) }
        // Every reader takes the first copy where it is valid.
        let used = valid[0] ? 0 : 1
        if !valid[1 - used] {
            damage.regionTable = (copies[used], 1 - used, "a region table is damaged; the other one is used")
        } else if copies[0] != copies[1] {
            damage.regionTable = (copies[0], 1, "the two region tables are not equal; the first one is used")
        }
        checkReserved(copies[used], at: VHDXRegions.places[used])
        for region in foundation.regions.reserved where region.owner != .log && region.end > view.size {
            report.add(
                .corruption, "the file ends within a region", at: region.offset, detail: region.owner.name)
        }
    }

    private mutating func checkReserved(_ copy: [UInt8], at place: UInt64) {
        let span = copy.span.bytes
        let count = Int(span.little(UInt32.self, at: 8))
        var isSet = span.little(UInt32.self, at: 12) != 0
        for index in 0..<count where span.little(UInt32.self, at: 44 + index * 32) > 1 { isSet = true }
        if isSet { report.add(.note, "the region table has reserved bits set", at: place) }
        if unknownRegions(span, count) > 0 {
            report.add(.note, "the image has regions that platter does not know; they are kept as they are", at: place)
        }
    }

    private func unknownRegions(_ span: RawSpan, _ count: Int) -> Int {
        let known = [VHDXRegions.tableGUID, VHDXRegions.metadataGUID]
        return (0..<count).count { !known.contains(GUID(span, at: 16 + $0 * 32)) }
    }
}
