internal import Bytes
internal import Storage

/// What there is to say about metadata that opens: what must be right for that is checked when it is read.
extension VHDXCheck {
    /// The metadata table, the items that have a fixed form, and the parent locator. Throws `.unsupported` and `.io`.
    mutating func checkMetadata(_ foundation: VHDXFoundation) throws(ImageError) {
        let region = foundation.regions.metadata
        let table = try VHDXItemTable(foundation.view, region)
        let head = try foundation.view.bytes(
            at: HostOffset(region.offset), count: 32 + table.entries.count * VHDXItemTable.entryBytes)
        checkReserved(head, count: table.entries.count, at: region.offset)
        for entry in table.entries { check(entry) }
        if table.unknownCount > 0 {
            report.add(
                .note, "the image has metadata items that platter does not know; they are kept as they are",
                at: region.offset)
        }
        try checkParameters(foundation, table)
        try checkLocator(foundation)
    }

    private mutating func checkReserved(_ bytes: [UInt8], count: Int, at offset: UInt64) {
        let span = bytes.span.bytes
        var isSet = span.little(UInt16.self, at: 8) != 0 || !span.isZero(at: 12, count: 20)
        for index in 0..<count {
            let entry = 32 + index * VHDXItemTable.entryBytes
            if span.little(UInt32.self, at: entry + 24) > 7 || span.little(UInt32.self, at: entry + 28) != 0 {
                isSet = true
            }
        }
        if isSet { report.add(.note, "the metadata table has reserved bits set", at: offset) }
    }

    /// Flags and lengths of the items that [MS-VHDX] 2.6.2 defines.
    private mutating func check(_ entry: VHDXItemTable.Entry) {
        guard entry.flags & 1 == 0,
            let kind = VHDXItemKind.all.first(where: { $0.isRead && $0.guid == entry.guid })
        else { return }
        let flags: UInt32 = kind == .fileParameters || kind == .parentLocator ? 4 : 6
        if entry.flags & 7 != flags {
            report.add(.note, "a metadata item has unusual flags", at: entry.item.offset.rawValue, "item \(kind)")
        }
        if let length = kind.length, entry.item.length != length {
            report.add(.note, "a metadata item has an unusual length", at: entry.item.offset.rawValue, "item \(kind)")
        }
    }

    private mutating func checkParameters(
        _ foundation: VHDXFoundation, _ table: VHDXItemTable
    ) throws(ImageError) {
        let bytes = try table.read(.fileParameters, count: 8, foundation.view)
        let flags = bytes.span.bytes.little(UInt32.self, at: 4)
        let place = table.items[.fileParameters]?.offset.rawValue
        if flags > 3 { report.add(.note, "the file parameters have reserved bits set", at: place) }
        if flags & 3 == 3 { report.add(.note, "a differencing disk is marked as fixed, which is ignored", at: place) }
        if foundation.metadata.logicalSectorSize > foundation.metadata.physicalSectorSize {
            report.add(.note, "the physical sectors of the disk are smaller than its logical ones")
        }
    }

    private mutating func checkLocator(_ foundation: VHDXFoundation) throws(ImageError) {
        let locator = foundation.metadata.locator
        let place = locator?.offset.rawValue
        guard foundation.metadata.hasParent else {
            guard locator != nil else { return }
            report.add(
                .note, "the image names a parent but is not a differencing disk; the parent is ignored", at: place)
            return
        }
        let parent = try VHDXParent(foundation.view, locator)
        report.add(parent.faults, at: place)
        if parent.reference.identities.count > 1 {
            report.add(
                .note, "the image accepts two parents: merging it into its parent was interrupted", at: place)
        }
    }
}

extension VHDXItemKind {
    /// The length in bytes that the item has; nil where it has none of its own.
    fileprivate var length: Int? {
        switch self {
        case .fileParameters, .virtualDiskSize: 8
        case .virtualDiskID: 16
        case .logicalSectorSize, .physicalSectorSize: 4
        default: nil
        }
    }
}
