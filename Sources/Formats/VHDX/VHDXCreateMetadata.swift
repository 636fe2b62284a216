internal import Bytes
internal import Storage

/// The metadata region of a new image ([MS-VHDX] 2.6): its own items, and those of the disk that a child takes over from
/// its parent.
struct VHDXCreateMetadata {
    /// Where the bytes of an item come from.
    enum Content {
        case bytes([UInt8])
        /// An item of the parent, which may be long and is read only when it is written.
        case copy(VHDXItem)
    }

    /// One item of the new image.
    struct Item {
        var guid: GUID
        var flags: UInt32
        var content: Content

        /// The length in bytes, at most 1 MiB.
        var length: Int {
            switch content {
            case .bytes(let bytes): bytes.count
            case .copy(let item): item.length
            }
        }
    }

    /// The length of the region in bytes, a multiple of 1 MiB.
    let length: UInt64
    private let items: [Item]
    private let parent: (any Storage)?

    private static let isVirtualDisk: UInt32 = 2
    private static let isRequired: UInt32 = 4

    /// Lays out the items; reads those of the parent where there is one. Throws what opening the parent throws, and
    /// `.unsupported`.
    init(_ options: VHDXCreateOptions, parent: CreateRequest.Parent?) throws(ImageError) {
        var diskID = VHDXEncode.randomGUID()
        var inherited: [Item] = []
        var locator: [UInt8]?
        if let parent {
            guard let storage = parent.storage else {
                throw ImageError(.unsupported, "a VHDX child is made from its parent's file, which is not open")
            }
            let foundation = try VHDXFoundation(storage)
            self.parent = foundation.view
            diskID = foundation.metadata.diskID
            inherited = try Self.inherited(foundation)
            locator = try VHDXCreateLocator.bytes(parent, linkage: foundation.header.dataWriteGUID)
        } else {
            self.parent = nil
        }
        items = Self.own(options, diskID, locator) + inherited
        let bytes = items.reduce(VHDXItemTable.tableBytes) { $0 + UInt64($1.length) }
        length = bytes.dividedRoundingUp(by: VHDX.unit) * VHDX.unit
        guard length <= VHDXRegions.maximumMetadataBytes, items.count <= VHDXItemTable.maximumCount else {
            throw ImageError(.unsupported, "the parent has more metadata than a child of it can have")
        }
    }

    private static func own(_ options: VHDXCreateOptions, _ diskID: GUID, _ locator: [UInt8]?) -> [Item] {
        func item(_ kind: VHDXItemKind, _ flags: UInt32, count: Int, _ fill: (inout [UInt8]) -> Void) -> Item {
            var bytes = [UInt8](repeating: 0, count: count)
            fill(&bytes)
            return Item(guid: kind.guid, flags: flags, content: .bytes(bytes))
        }
        let disk = isVirtualDisk | isRequired
        let flags: UInt32 = (options.isFixed ? 1 : 0) | (locator != nil ? 2 : 0)
        var items = [
            item(.fileParameters, isRequired, count: 8) {
                VHDXEncode.put(UInt32(options.blockSize), into: &$0, at: 0)
                VHDXEncode.put(flags, into: &$0, at: 4)
            },
            item(.virtualDiskSize, disk, count: 8) { VHDXEncode.put(options.virtualSize, into: &$0, at: 0) },
            item(.virtualDiskID, disk, count: 16) { VHDXEncode.put(diskID, into: &$0, at: 0) },
            item(.logicalSectorSize, disk, count: 4) {
                VHDXEncode.put(options.logicalSectorSize, into: &$0, at: 0)
            },
            item(.physicalSectorSize, disk, count: 4) {
                VHDXEncode.put(options.physicalSectorSize, into: &$0, at: 0)
            },
        ]
        if let locator {
            items.append(Item(guid: VHDXItemKind.parentLocator.guid, flags: isRequired, content: .bytes(locator)))
        }
        return items
    }

    /// What belongs to the parent's disk and not to its file, besides the items that every image has of its own.
    private static func inherited(_ parent: VHDXFoundation) throws(ImageError) -> [Item] {
        try VHDXItemTable(parent.view, parent.regions.metadata).entries.compactMap { entry in
            let isOwn = entry.flags & 1 == 0 && VHDXItemKind.all.contains { $0.isRead && $0.guid == entry.guid }
            guard entry.flags & isVirtualDisk != 0, !isOwn else { return nil }
            return Item(guid: entry.guid, flags: entry.flags, content: .copy(entry.item))
        }
    }

    /// Writes the region, which reads as zeros still, at `offset`. Throws like `Storage.write`, and `.io`.
    func write(to storage: any Storage, at offset: UInt64) throws(ImageError) {
        var table = [UInt8](repeating: 0, count: Int(VHDXItemTable.tableBytes))
        VHDXEncode.put("metadata", into: &table, at: 0)
        VHDXEncode.put(UInt16(items.count), into: &table, at: 10)
        var place = VHDXItemTable.tableBytes
        for (index, item) in items.enumerated() {
            let entry = 32 + index * 32
            VHDXEncode.put(item.guid, into: &table, at: entry)
            // An item without bytes has no place ([MS-VHDX] 2.6.1.2).
            if item.length > 0 { VHDXEncode.put(UInt32(place), into: &table, at: entry + 16) }
            VHDXEncode.put(UInt32(item.length), into: &table, at: entry + 20)
            VHDXEncode.put(item.flags, into: &table, at: entry + 24)
            if item.length > 0 { try storage.write(at: HostOffset(offset + place), try bytes(of: item)) }
            place += UInt64(item.length)
        }
        try storage.write(at: HostOffset(offset), table)
    }

    private func bytes(of item: Item) throws(ImageError) -> [UInt8] {
        switch item.content {
        case .bytes(let bytes): return bytes
        case .copy(let place):
            guard let parent else { return [] }
            return try parent.bytes(at: place.offset, count: place.length)
        }
    }
}

/// The parent locator of a new child ([MS-VHDX] 2.6.2.6): how it names and recognises its parent.
enum VHDXCreateLocator {
    /// The bytes of the item. `linkage` is the parent's DataWriteGuid. Throws `.unsupported` for a name that the format
    /// cannot hold.
    static func bytes(_ parent: CreateRequest.Parent, linkage: GUID) throws(ImageError) -> [UInt8] {
        var pairs = [("parent_linkage", "{\(linkage.microsoftText)}")]
        // A path from the root has no place among the relative ones: Windows and our reader would take it for a drive's.
        if !parent.recordedPath.hasPrefix("/") {
            let name = try windows(parent.recordedPath)
            pairs.append(("relative_path", name.hasPrefix("..\\") ? name : ".\\" + name))
        }
        // Windows looks for this one last. A path of this machine leads nowhere there, but tells people where the parent
        // was, and its last component is what a reader elsewhere looks for.
        pairs.append(("absolute_win32_path", try windows(parent.absolutePath)))
        return try encoded(pairs)
    }

    /// With backslashes between the components, which can therefore have none inside.
    private static func windows(_ path: String) throws(ImageError) -> String {
        guard !path.isEmpty, !path.contains("\\"), !path.utf8.contains(0) else {
            throw ImageError(
                .unsupported, "a VHDX cannot record this name of its parent; rename the parent", detail: path)
        }
        return String(path.map { $0 == "/" ? "\\" : $0 })
    }

    private static func encoded(_ pairs: [(String, String)]) throws(ImageError) -> [UInt8] {
        var head = [UInt8](repeating: 0, count: VHDXParent.headBytes + pairs.count * 12)
        VHDXEncode.put(VHDXParent.locatorType, into: &head, at: 0)
        VHDXEncode.put(UInt16(pairs.count), into: &head, at: 18)
        var text: [UInt8] = []
        for (index, (key, value)) in pairs.enumerated() {
            let entry = VHDXParent.headBytes + index * 12
            for (part, string) in [key, value].enumerated() {
                let start = text.count
                for unit in string.utf16 { withUnsafeBytes(of: unit.littleEndian) { text.append(contentsOf: $0) } }
                guard let length = UInt16(exactly: text.count - start) else {
                    throw ImageError(.unsupported, "the parent's path is too long for a VHDX")
                }
                VHDXEncode.put(UInt32(head.count + start), into: &head, at: entry + part * 4)
                VHDXEncode.put(length, into: &head, at: entry + 8 + part * 2)
            }
        }
        return head + text
    }
}
