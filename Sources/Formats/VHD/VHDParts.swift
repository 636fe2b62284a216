internal import Bytes
internal import Storage

/// The parts of a sparse image besides its blocks, each checked on its own.
struct VHDParts {
    var header: VHDDynamicHeader
    var table: VHDTable
    /// The way to the parent; nil for a dynamic image.
    var parent: VHDParent?
    var batmap: VHDBatmap?
    /// The order of the bits in the blocks' bitmaps.
    var order: BitOrder
    /// Where the footer's copy is.
    private let copy = VHDMetadataPart(at: 0, count: UInt64(VHDFooter.byteCount))
    private let headerPart: VHDMetadataPart

    /// Reads all of them, for a disk of `size` bytes. Throws what each of them throws.
    init(_ storage: any Storage, _ footers: VHDFooters, size: UInt64) throws(ImageError) {
        let footer = footers.footer
        header = try VHDDynamicHeader(storage, at: footer.dataOffset)
        headerPart = VHDMetadataPart(at: footer.dataOffset, count: UInt64(VHDDynamicHeader.byteCount))
        table = try VHDTable(header, virtualSize: size, dataEnd: footers.dataEnd)
        parent = footer.type == .differencing ? try VHDParent(storage, header) : nil
        batmap = try VHDBatmap.find(storage, footer, header)
        // XenServer's tools of version 0.1 counted a bitmap's bits from the lowest one of a byte.
        let isLowestFirst = footer.creator == VHDCreator.xenServer && footer.creatorVersion == 1
        order = isLowestFirst ? .lowestFirst : .highestFirst
    }

    /// What no block may overlap for the image to be read.
    var read: [VHDMetadataPart] {
        [copy, headerPart, VHDMetadataPart(at: table.offset, count: table.entryCount * 4)] + (parent?.parts ?? [])
    }

    /// What no block may overlap for the image to be written: the space of locators and the batmap as well.
    var all: [VHDMetadataPart] {
        [copy, headerPart, VHDMetadataPart(at: table.offset, count: table.entryCount * 4)]
            + (parent?.spaces ?? []) + (batmap?.parts ?? [])
    }

    /// The place of a part that overlaps the one before it in the file, if there is such a one.
    var overlap: UInt64? {
        let parts = all.filter { $0.start < $0.end }.sorted { $0.start < $1.start }
        var end: UInt64 = 0
        for part in parts {
            if part.start < end { return part.start }
            end = max(end, part.end)
        }
        return nil
    }
}

/// Which images may be written.
enum VHDWritable {
    /// Throws `.readOnly` for kinds of images that are only read.
    static func check(_ footers: VHDFooters) throws(ImageError) {
        guard footers.place != .shortEnd else {
            throw ImageError(
                .readOnly, "images of Virtual PC from before 2004, with a footer of 511 bytes, are only read")
        }
        guard !footers.footer.isSavedState else {
            throw ImageError(
                .readOnly, "the image belongs to a virtual machine that is suspended: shut that down first")
        }
        guard footers.footer.hasExactSum else {
            throw ImageError(
                .readOnly,
                "the footer's checksum is one that only old tools of XenServer write: such images are only read")
        }
    }

    /// Looks at everything that writing relies on. Nothing is changed. Throws `.readOnly` for kinds of images that are only
    /// read, `.corrupt` for one in which a write could destroy something, `.unsupported` and `.io`.
    static func session(
        _ storage: any Storage, _ footers: VHDFooters, _ parts: VHDParts, cacheBytes: Int
    ) throws(ImageError) -> VHDSession {
        try check(footers)
        // While the file grows the copy is what remains of the footer if power is lost.
        if footers.place == .end {
            switch try footers.copy(storage) {
            case .good: break
            case .otherSize, .damaged, .foreign:
                throw ImageError(
                    .corrupt,
                    "the copy of the footer at the start of the file is damaged; platter check --repair mends it",
                    at: 0)
            }
        }
        let table = parts.table
        guard table.offset % 4 == 0 else {
            throw ImageError(
                .readOnly, "entries of the block allocation table lie across sectors: such an image is only read",
                at: table.offset)
        }
        if let offset = parts.overlap {
            throw ImageError(.corrupt, "two parts of the image's metadata overlap", at: offset)
        }
        let all = parts.all
        let scan = try VHDScan(storage, table, parts: all, dataEnd: footers.dataEnd) {
            (flaw, block) throws(ImageError) in throw flaw.error(block, table)
        }
        let space = VHDSpace(
            used: scan.freePlaces(table, parts: all), next: scan.usedEnd, end: footers.dataEnd,
            zeroFrom: footers.dataEnd, unallocated: table.blockCount - scan.blockCount)
        return VHDSession(
            storage, store: MetadataStore(storage, limitBytes: cacheBytes), footers: footers, batmap: parts.batmap,
            parts: all, space: space, cacheBytes: cacheBytes)
    }
}
