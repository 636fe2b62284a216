internal import Bytes
internal import Storage

/// Goes once through the block allocation table, in a stream, and finds out which parts of the file belong to what.
///
/// Takes a bit of memory for each MiB of the file, and steps over holes of the table.
struct VHDXCheckBlocks {
    private let table: VHDXTable
    private let regions: VHDXRegions
    private let view: any Storage
    private let fileSize: UInt64
    private var units: VHDXCheckUnits
    private var bitmap: (chunk: UInt64, isPresent: Bool)?
    private var ownedBlocks: UInt64 = 0
    /// The first unit that a block or a sector bitmap owns.
    private var firstOwned: UInt64 = .max
    /// Where sector bitmaps would be that nobody reads: at most one for each chunk.
    private var unusedBitmaps: [UInt64] = []

    private static let pieceBytes = 64 << 10
    private static let absentWithOffset: StaticString =
        "an entry that is not present has a place in the file, which is ignored"

    /// Throws `.malformed` and `.corrupt` where the table does not fit, and `.unsupported` for a file too long to check.
    init(_ foundation: VHDXFoundation) throws(ImageError) {
        view = foundation.view
        regions = foundation.regions
        table = try VHDXTable(foundation.metadata, foundation.regions.table, in: foundation.view)
        fileSize = foundation.view.size
        units = try VHDXCheckUnits(fileSize: fileSize)
        for span in regions.reserved { _ = units.take(span.offset, span.length) }
    }

    /// The size that the file could have, in bytes, where everything behind it belongs to nothing; nil where it has it.
    private(set) var trimmedSize: UInt64?

    /// Checks every entry and then what no entry owns. Throws `.io`.
    mutating func run(_ report: inout CheckReport) throws(ImageError) {
        try scan(&report)
        // Whoever made these may count on their space; where it is another's as well, that is the other's.
        for offset in unusedBitmaps where offset < fileSize { _ = units.take(offset, VHDXTable.bitmapBytes) }
        if fileSize % VHDX.unit != 0 { report.add(.note, "the file's size is no multiple of 1 MiB") }
        report.allocatedBytes = ownedBlocks * table.blockSize
        report.imageEnd = units.end * VHDX.unit
        addLeaks(&report)
    }

    /// Space behind the first block that nothing owns has been lost. What lies before it is no loss: programs align their
    /// blocks, and leave room for the regions to grow.
    private mutating func addLeaks(_ report: inout CheckReport) {
        var unit: UInt64 = 1
        var spare: UInt64 = 0
        while let free = units.free(from: unit) {
            unit = free.upperBound
            guard free.lowerBound > firstOwned else { continue }
            // Free space at the end is cut off by a repair, and reported when that is decided.
            guard free.upperBound < units.count else {
                trimmedSize = free.lowerBound * VHDX.unit
                break
            }
            let count = free.upperBound - free.lowerBound
            // What a discard gave back to the host waits for the next block, and costs nobody anything.
            if HostHoles.isHole(
                view, from: free.lowerBound * VHDX.unit, to: free.upperBound * VHDX.unit)
            {
                spare += count
                continue
            }
            report.add(
                .leak, "space of the file belongs to nothing", at: free.lowerBound * VHDX.unit,
                detail: "\(count) MiB", count: count)
        }
        if spare > 0 {
            report.add(.note, "space of the file is free and takes none on the host", detail: "\(spare) MiB")
        }
    }

    /// The name of the entry at byte `place` of the file.
    private func bat(_ place: UInt64) -> String {
        CheckReport.entry("BAT", (place - table.offset) / VHDXTable.entryBytes)
    }

    // MARK: - The table

    private mutating func scan(_ report: inout CheckReport) throws(ImageError) {
        let end = min(regions.table.end, fileSize) / VHDXTable.entryBytes * VHDXTable.entryBytes
        var position = table.offset
        var wasEmpty = true
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.pieceBytes, alignment: 8)
        defer { buffer.deallocate() }
        while position < end {
            if wasEmpty {
                position = try afterHole(from: position, to: end)
            }
            let part = UnsafeMutableRawBufferPointer(
                rebasing: buffer[0..<Int(min(UInt64(Self.pieceBytes), end - position))])
            guard part.count > 0 else { break }
            try view.readAll(at: HostOffset(position), into: part)
            wasEmpty = try check(UnsafeRawBufferPointer(part), at: position, &report)
            position += UInt64(part.count)
        }
    }

    /// The place of the first entry from `position` on that the host may hold data for.
    private func afterHole(from position: UInt64, to end: UInt64) throws(ImageError) -> UInt64 {
        guard let data = try view.nextData(from: HostOffset(position))?.rawValue else { return end }
        return max(position, min(end, data / VHDXTable.entryBytes * VHDXTable.entryBytes))
    }

    /// Checks the entries of one piece. Returns whether all of them are zero.
    private mutating func check(
        _ piece: UnsafeRawBufferPointer, at start: UInt64, _ report: inout CheckReport
    ) throws(ImageError) -> Bool {
        var isEmpty = true
        let first = (start - table.offset) / VHDXTable.entryBytes
        for index in 0..<(piece.count / Int(VHDXTable.entryBytes)) {
            let word = UInt64(
                littleEndian: piece.loadUnaligned(fromByteOffset: index * Int(VHDXTable.entryBytes), as: UInt64.self))
            guard word != 0 else { continue }
            isEmpty = false
            try check(VHDXEntry(word: word), first + UInt64(index), &report)
        }
        return isEmpty
    }

    private mutating func check(
        _ entry: VHDXEntry, _ index: UInt64, _ report: inout CheckReport
    ) throws(ImageError) {
        let place = table.place(ofEntry: index).rawValue
        // Entries behind the last one that the disk needs are read by nobody, and QEMU leaves some.
        guard index < table.entryCount else { return }
        let (chunk, rest) = index.quotientAndRemainder(dividingBy: table.chunkRatio + 1)
        if rest == table.chunkRatio {
            checkBitmap(entry, at: place, &report)
            return
        }
        let block = chunk * table.chunkRatio + rest
        guard block < table.blockCount else { return }
        try checkPayload(entry, block, at: place, &report)
    }

    // MARK: - Entries

    /// A payload block's entry ([MS-VHDX] 2.5.1.1).
    private mutating func checkPayload(
        _ entry: VHDXEntry, _ block: UInt64, at place: UInt64, _ report: inout CheckReport
    ) throws(ImageError) {
        switch entry.content {
        case .invalid:
            report.add(.corruption, "a block's entry has a reserved state or reserved bits set", at: place, bat(place))
        case .absent:
            if entry.offset != 0 { report.add(.note, Self.absentWithOffset, at: place, bat(place)) }
        case .zeros:
            guard entry.offset != 0 else { return }
            if entry.isZero {
                report.add(
                    .note, "a zero block has a place in the file, for which Hyper-V rejects the image", at: place,
                    bat(place))
            } else {
                // UNDEFINED and UNMAPPED blocks may keep their space.
                checkSpace(entry.offset, table.blockSize, needed: table.length(of: block), at: place, &report)
            }
        case .full:
            checkSpace(entry.offset, table.blockSize, needed: table.length(of: block), at: place, &report)
            ownedBlocks += 1
        case .partial:
            checkSpace(entry.offset, table.blockSize, needed: table.length(of: block), at: place, &report)
            ownedBlocks += 1
            try checkPartial(block, at: place, &report)
        }
    }

    private mutating func checkPartial(
        _ block: UInt64, at place: UInt64, _ report: inout CheckReport
    ) throws(ImageError) {
        guard table.hasParent else {
            report.add(.corruption, "a block is partially present in a disk without a parent", at: place, bat(place))
            return
        }
        let chunk = block / table.chunkRatio
        if bitmap?.chunk != chunk {
            let bytes = try view.bytes(at: table.place(ofEntry: table.bitmapEntry(of: block)), count: 8)
            bitmap = (chunk, VHDXEntry(word: bytes.span.bytes.little(at: 0)).isBitmapPresent)
        }
        if bitmap?.isPresent == false {
            report.add(
                .corruption, "a block is partially present, but its sector bitmap is not present", at: place, bat(place)
            )
        }
    }

    /// A sector bitmap's entry ([MS-VHDX] 2.5.1.2): where there is no parent nobody reads it, but its space is taken.
    private mutating func checkBitmap(_ entry: VHDXEntry, at place: UInt64, _ report: inout CheckReport) {
        guard entry.word != 0 else { return }
        guard table.hasParent else {
            report.add(.note, "a sector bitmap is recorded for a disk that has no parent", at: place, bat(place))
            unusedBitmaps.append(entry.offset)
            return
        }
        if entry.isBitmapPresent {
            checkSpace(entry.offset, VHDXTable.bitmapBytes, needed: VHDXTable.bitmapBytes, at: place, &report)
        } else if entry.word & 0xFFFFF == 0 {
            report.add(.note, Self.absentWithOffset, at: place, bat(place))
        } else {
            report.add(
                .corruption, "a sector bitmap's entry has a reserved state or reserved bits set", at: place, bat(place))
        }
    }

    /// Takes the space of a block, of which the first `needed` bytes hold something.
    private mutating func checkSpace(
        _ offset: UInt64, _ length: UInt64, needed: UInt64, at place: UInt64, _ report: inout CheckReport
    ) {
        guard let end = offset.checkedAdding(length), offset + needed <= fileSize else {
            report.add(.corruption, "a block lies past the end of the file", at: place, bat(place))
            return
        }
        if let owner = regions.collision(at: offset, length: length) {
            report.add(.corruption, owner.collision, at: place, bat(place))
            return
        }
        if end > fileSize {
            report.add(.note, "the file ends within the unused rest of the last block", at: place, bat(place))
        }
        firstOwned = min(firstOwned, offset / VHDX.unit)
        if units.take(offset, length) {
            report.add(.corruption, "a block shares space of the file with another block", at: place, bat(place))
        }
    }
}

extension VHDXEntry {
    /// Whether the state is ZERO, which has no space.
    fileprivate var isZero: Bool { word & 7 == 2 }
}
