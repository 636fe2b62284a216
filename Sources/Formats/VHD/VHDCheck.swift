internal import Bytes
internal import Storage

/// Looks for everything in an image that can be wrong.
///
/// Footers and their copy, the fields that have one right value, the table's place and length, each block against the
/// file, the metadata and every other block, the parent locators, XenServer's map, and what of the file is nobody's.
struct VHDCheck {
    private let storage: any Storage
    private let footers: VHDFooters
    private let size: UInt64
    private var report = CheckReport()

    private init(_ request: OpenRequest, _ footers: VHDFooters) {
        storage = request.storage
        self.footers = footers
        size = footers.footer.size(request.options.vhdSize)
    }

    /// Checks the image of `request`, and repairs what is safe to repair where `repairs` says so. Throws `.malformed` when
    /// there is no footer to begin with, `.unsupported` and `.io`.
    static func run(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        var check = VHDCheck(request, try VHDFooters.find(request.storage))
        check.noteFields()
        if check.footers.footer.type.isSparse {
            try check.checkSparse(repairs: repairs)
        } else {
            check.checkFixed()
        }
        return check.report
    }

    /// What is unusual about the footer and hurts nobody.
    private mutating func noteFields() {
        let footer = footers.footer
        let span = footer.bytes.span.bytes
        if footers.place == .shortEnd { report.add(.note, "the footer has 511 bytes: the image is only read") }
        if !footer.hasExactSum {
            report.add(.note, "the footer's checksum leaves out a byte, as XenServer's early tools did")
        }
        if footer.isSavedState { report.add(.note, "the image belongs to a virtual machine that is suspended") }
        if size % 512 != 0 { report.add(.note, "the size of the disk is no multiple of 512 bytes") }
        if span.big(UInt32.self, at: 8) & 2 == 0 {
            report.add(.note, "a bit of the footer that is always set is clear")
        }
        if !footer.type.isSparse, footer.dataOffset != .max {
            report.add(.note, "the footer of a fixed image names a dynamic header")
        }
    }

    private mutating func checkFixed() {
        report.allocatedBytes = size
        report.imageEnd = storage.size
        if size > footers.dataEnd {
            report.add(.corruption, "the file ends before the disk does", at: footers.dataEnd)
        } else if footers.dataEnd - size >= 512 {
            report.add(
                .note, "bytes before the footer are not part of the disk", at: size,
                detail: (footers.dataEnd - size).counted("byte"))
        }
    }

    // MARK: - Sparse images

    private mutating func checkSparse(repairs: Bool) throws(ImageError) {
        let parts: VHDParts
        do throws(ImageError) {
            parts = try VHDParts(storage, footers, size: size)
        } catch {
            guard error.kind == .corrupt || error.kind == .malformed else { throw error }
            add(error)
            return try checkFooters(repair: nil)
        }
        if let offset = parts.overlap {
            report.add(.corruption, "two parts of the image's metadata overlap", at: offset)
        }
        if parts.table.offset % 4 != 0 {
            report.add(
                .note, "entries of the block allocation table lie across sectors: the image is only read",
                at: parts.table.offset)
        }
        if let parent = parts.parent { report.add(parent.faults) }
        let scan = try scan(parts)
        report.allocatedBytes = scan.blockCount << parts.table.blockShift
        report.imageEnd = footers.place == .end ? storage.size : min(scan.usedEnd, storage.size)
        if let batmap = parts.batmap { try checkBatmap(batmap, parts) }
        let isSound = report.corruptions == 0
        // Where two entries have one block it would be looked at as often as they do.
        if isSound, parts.parent == nil { try VHDBitmapCheck(storage, parts).run(&report) }
        let target = parts.table.alignedStart(scan.usedEnd)
        // What follows an image on a block device is the device's.
        let hasLeakAtEnd = !storage.hasFixedSize && target + parts.table.runBytes <= footers.dataEnd
        let isMovable = footers.place == .end || !storage.hasFixedSize
        let isRepairable =
            repairs && isSound && isMovable && footers.footer.hasExactSum && footers.place != .shortEnd
        addGaps(scan, parts)
        if hasLeakAtEnd {
            let isCut = isRepairable && !footers.footer.isSavedState
            report.add(
                .leak, "space at the end of the file belongs to no block", at: scan.usedEnd,
                detail: (footers.dataEnd - scan.usedEnd).counted("byte"), isRepaired: isCut,
                count: (footers.dataEnd - scan.usedEnd) / parts.table.runBytes)
        }
        try checkFooters(repair: isRepairable ? VHDRepair(storage, footers.footer, end: target) : nil, hasLeakAtEnd)
    }

    private mutating func add(_ error: ImageError) {
        report.add(.corruption, error.what, at: error.offset, detail: error.detail)
    }

    private mutating func scan(_ parts: VHDParts) throws(ImageError) -> VHDScan {
        let table = parts.table
        var report = report
        let scan = try VHDScan(storage, table, parts: parts.all, dataEnd: footers.dataEnd) {
            (flaw, block) throws(ImageError) in
            report.add(
                .corruption, flaw.what, at: table.entryOffset(block).rawValue, CheckReport.entry("BAT", block))
        }
        if let first = scan.firstStray {
            report.add(
                .note, "entries past the disk's last block are not unused; they are ignored",
                at: table.entryOffset(first).rawValue, CheckReport.entry("BAT", first), times: scan.strayCount)
        }
        self.report = report
        return scan
    }

    /// Marks of XenServer's map that are not true in a child: a program that believes them reads what was never written.
    private mutating func checkBatmap(_ batmap: VHDBatmap, _ parts: VHDParts) throws(ImageError) {
        guard batmap.byteCount > 0 else {
            report.add(.note, "XenServer's map of full blocks does not lie in the file", at: batmap.headerOffset)
            return
        }
        let severity: CheckReport.Severity = parts.parent == nil ? .note : .corruption
        var report = report
        try batmap.forEachFalseMark(parts, MetadataCache(storage, limitBytes: 1 << 20)) { block, place in
            report.add(
                severity, "XenServer's map says that a block is full whose bitmap says otherwise", at: place,
                CheckReport.entry("BAT", block))
        }
        self.report = report
    }

    // MARK: - Unused space

    /// Space before the last block that is nobody's: large enough for a block, it is leaked; smaller, it is how the blocks
    /// were laid out.
    private mutating func addGaps(_ scan: VHDScan, _ parts: VHDParts) {
        var pieces = parts.all.sorted { $0.start < $1.start }[...]
        var position: UInt64 = 0
        var spare: UInt64 = 0
        var leaked: UInt64 = 0
        var places: UInt64 = 0
        var first: UInt64?
        func pass(to start: UInt64) {
            guard start > position else { return }
            let gap = start - position
            guard gap >= parts.table.runBytes else { return }
            // What a discard gave back to the host waits for the next block, and costs nobody anything. Place by place: the
            // pages that two places share stay allocated.
            let lost = lostPlaces(from: position, to: start, parts.table)
            guard lost > 0 else {
                spare += gap
                return
            }
            leaked += lost * parts.table.runBytes
            places += lost
            if first == nil { first = position }
        }
        for block in scan.owned.ascending {
            while let piece = pieces.first, piece.start <= block {
                pass(to: piece.start)
                position = max(position, (piece.end + 511) & ~511)
                pieces.removeFirst()
            }
            pass(to: block)
            position = max(position, block + parts.table.runBytes)
        }
        for piece in pieces {
            pass(to: piece.start)
            position = max(position, (piece.end + 511) & ~511)
        }
        if leaked > 0 {
            report.add(
                .leak, "space between the blocks belongs to none", at: first, detail: "\(leaked) bytes in all",
                times: places)
        }
        if spare > 0 {
            report.add(.note, "space between the blocks is free and takes none on the host", detail: "\(spare) bytes")
        }
    }

    /// How many places for a block in the gap from `start` to `end`, which is larger than one, the host holds bytes for. Goes
    /// from data to data, since a file may have a gap of terabytes that is one hole.
    private func lostPlaces(from start: UInt64, to end: UInt64, _ table: VHDTable) -> UInt64 {
        var place = table.alignedStart(start)
        // Laid out by somebody else, with less room between the blocks than we leave.
        guard place + table.runBytes <= end else { return HostHoles.isHole(storage, from: start, to: end) ? 0 : 1 }
        var lost: UInt64 = 0
        while place + table.runBytes <= end {
            if !HostHoles.isHole(storage, from: place, to: place + table.runBytes) { lost += 1 }
            place += table.pitch
            let data: HostOffset?
            // Without an answer the rest would be asked for place by place, and may be terabytes.
            do throws(ImageError) { data = try storage.nextData(from: HostOffset(place)) } catch { break }
            guard let data, data.rawValue < end else { break }
            place += (data.rawValue - place) / table.pitch * table.pitch
        }
        return lost
    }

    // MARK: - Footers

    /// Says what is wrong with the footer of a sparse image and its copy, and mends that with `repair`.
    private mutating func checkFooters(repair: VHDRepair?, _ hasLeakAtEnd: Bool = false) throws(ImageError) {
        switch footers.place {
        case .copy:
            try repair?.putFooterBack()
            // A power loss while the file grows leaves it without a footer at the end, and the copy is for that.
            report.add(
                footers.isEndDamaged ? .corruption : .note,
                footers.isEndDamaged
                    ? "the footer at the end is damaged; its copy is used"
                    : "the footer at the end is missing; its copy is used",
                isRepaired: repair != nil)
        case .end, .shortEnd:
            let copy = try footers.copy(storage)
            if copy != .good {
                let isMended = repair != nil && copy != .foreign
                if isMended { try repair?.putCopyBack() }
                report.add(
                    .corruption,
                    copy == .foreign
                        ? "the copy of the footer at the start of the file belongs to another image"
                        : "the copy of the footer at the start of the file is damaged or out of date",
                    at: 0, isRepaired: isMended)
            }
            if hasLeakAtEnd, !footers.footer.isSavedState { try repair?.putFooterBack() }
        }
    }
}
