internal import Bytes
internal import Storage

/// The metadata items that reading a disk needs ([MS-VHDX] 2.6).
struct VHDXMetadata {
    /// The size of a payload block in bytes: a power of two from 1 to 256 MiB.
    let blockSize: UInt64
    /// Whether every block keeps its space: a fixed disk, unless it has a parent.
    let leavesBlocksAllocated: Bool
    /// Whether the disk is a differencing one.
    let hasParent: Bool
    /// The size of the disk in bytes: a multiple of the logical sector size, at most 64 TiB.
    let virtualSize: UInt64
    /// The identity that the disk shows to its guest; the same along a chain.
    let diskID: GUID
    /// 512 or 4096.
    let logicalSectorSize: UInt32
    /// 512 or 4096.
    let physicalSectorSize: UInt32
    /// Where the parent locator is; nil where there is none.
    let locator: VHDXItem?
    /// How many items there are that platter does not know, those of users included.
    let unknownCount: Int

    /// Reads the table and the items of fixed size. Throws `.malformed`, `.unsupported` for a required item that is
    /// unknown, `.corrupt` where the file ends too early, and `.io`.
    init(_ storage: any Storage, _ region: VHDXSpan) throws(ImageError) {
        let table = try VHDXItemTable(storage, region)
        let parameters = try table.read(.fileParameters, count: 8, storage)
        blockSize = UInt64(parameters.span.bytes.little(UInt32.self, at: 0))
        let flags = parameters.span.bytes.little(UInt32.self, at: 4)
        hasParent = flags & 2 != 0
        leavesBlocksAllocated = flags & 1 != 0 && !hasParent
        guard blockSize.isPowerOfTwo, (VHDX.unit...(256 << 20)).contains(blockSize) else {
            throw ImageError(
                .malformed, "the block size is not a power of two from 1 to 256 MiB", detail: blockSize.counted("byte"))
        }
        let logical = try table.read(.logicalSectorSize, count: 4, storage)
        logicalSectorSize = logical.span.bytes.little(at: 0)
        let physical = try table.read(.physicalSectorSize, count: 4, storage)
        physicalSectorSize = physical.span.bytes.little(at: 0)
        guard logicalSectorSize == 512 || logicalSectorSize == 4096 else {
            throw ImageError(
                .malformed, "the logical sector size is neither 512 nor 4096", detail: logicalSectorSize.counted("byte")
            )
        }
        guard physicalSectorSize == 512 || physicalSectorSize == 4096 else {
            throw ImageError(
                .malformed, "the physical sector size is neither 512 nor 4096",
                detail: physicalSectorSize.counted("byte"))
        }
        let size = try table.read(.virtualDiskSize, count: 8, storage)
        virtualSize = size.span.bytes.little(at: 0)
        guard virtualSize <= 64 << 40 else {
            throw ImageError(.malformed, "the disk is larger than 64 TiB", detail: virtualSize.counted("byte"))
        }
        guard virtualSize % UInt64(logicalSectorSize) == 0 else {
            throw ImageError(
                .malformed, "the disk's size is not a multiple of its sectors", detail: virtualSize.counted("byte"))
        }
        let id = try table.read(.virtualDiskID, count: 16, storage)
        diskID = GUID(id.span.bytes, at: 0)
        locator = table.items[.parentLocator]
        unknownCount = table.unknownCount
    }
}

/// The place of one metadata item.
struct VHDXItem: BitwiseCopyable {
    /// The first byte in the host file.
    var offset: HostOffset
    /// The length in bytes, at most 1 MiB.
    var length: Int
}

/// The metadata table: the first 64 KiB of the metadata region ([MS-VHDX] 2.6.1).
struct VHDXItemTable {
    /// One entry of the table, of whatever kind.
    struct Entry: BitwiseCopyable {
        /// What the item is.
        var guid: GUID
        /// Bit 0: an item of a user; bit 1: it belongs to the virtual disk; bit 2: it must be understood.
        var flags: UInt32
        /// Where its bytes are; without meaning where there are none.
        var item: VHDXItem
    }

    /// Known items, by what they are.
    private(set) var items: [VHDXItemKind: VHDXItem] = [:]
    /// Every entry, in the order of the table.
    private(set) var entries: [Entry] = []
    /// How many items are of no kind known here.
    private(set) var unknownCount = 0

    /// More entries a table does not have.
    static let maximumCount = 2047
    /// The size of an entry in bytes.
    static let entryBytes = 32
    private static let maximumUserCount = 1024
    /// The size of the table in bytes; items lie behind it.
    static let tableBytes: UInt64 = 64 << 10
    private static let maximumItemBytes: UInt64 = 1 << 20

    private struct Key: Hashable {
        var guid: GUID
        var isUser: Bool
    }

    init(_ storage: any Storage, _ region: VHDXSpan) throws(ImageError) {
        let head = try storage.bytes(at: HostOffset(region.offset), count: 32)
        guard head.span.bytes.hasASCII("metadata") else {
            throw ImageError(.malformed, "the metadata table has no signature", at: region.offset)
        }
        let count = Int(head.span.bytes.little(UInt16.self, at: 10))
        guard count <= Self.maximumCount else {
            throw ImageError(.malformed, "the metadata table has too many entries", detail: "\(count)")
        }
        let table = try storage.bytes(at: HostOffset(region.offset + 32), count: count * 32)
        var seen: Set<Key> = []
        var places: [(offset: UInt64, length: UInt64)] = []
        var userCount = 0
        for index in 0..<count {
            let span = table.span.bytes
            let key = Key(
                guid: GUID(span, at: index * 32), isUser: span.little(UInt32.self, at: index * 32 + 24) & 1 != 0)
            guard seen.insert(key).inserted else {
                throw ImageError(.malformed, "the metadata names an item twice", detail: key.guid.microsoftText)
            }
            userCount += key.isUser ? 1 : 0
            let offset = UInt64(span.little(UInt32.self, at: index * 32 + 16))
            let length = UInt64(span.little(UInt32.self, at: index * 32 + 20))
            guard length > 0 ? offset >= Self.tableBytes : offset == 0, length <= Self.maximumItemBytes,
                offset + length <= region.length
            else {
                throw ImageError(
                    .malformed, "a metadata item lies outside the metadata region", detail: key.guid.microsoftText)
            }
            if length > 0 { places.append((offset, length)) }
            let item = VHDXItem(offset: HostOffset(region.offset + offset), length: Int(length))
            let flags = span.little(UInt32.self, at: index * 32 + 24)
            entries.append(Entry(guid: key.guid, flags: flags, item: item))
            try note(key, item, isRequired: flags & 4 != 0)
        }
        guard userCount <= Self.maximumUserCount else {
            throw ImageError(.malformed, "the metadata has too many items of users", detail: "\(userCount)")
        }
        places.sort { $0.offset < $1.offset }
        for (earlier, later) in zip(places, places.dropFirst()) where earlier.offset + earlier.length > later.offset {
            throw ImageError(.malformed, "two metadata items overlap", at: region.offset + later.offset)
        }
    }

    private mutating func note(_ key: Key, _ item: VHDXItem, isRequired: Bool) throws(ImageError) {
        let kind = key.isUser ? nil : VHDXItemKind.all.first { $0.guid == key.guid }
        if kind == .incompleteFile {
            throw ImageError(
                .unsupported, "the program that was making this image did not finish it; make it again from its source")
        }
        if let kind, kind.isRead {
            items[kind] = item
            return
        }
        unknownCount += 1
        guard !isRequired else {
            var text = key.guid.microsoftText
            if let kind { text = "\(kind), \(text)" }
            throw ImageError(.unsupported, "the image needs a metadata item that platter does not know", detail: text)
        }
    }

    /// The first `count` bytes of an item that must be there. Throws `.malformed` when it is missing or too short.
    func read(_ kind: VHDXItemKind, count: Int, _ storage: any Storage) throws(ImageError) -> [UInt8] {
        guard let item = items[kind] else {
            throw ImageError(.malformed, "the metadata lacks a required item", detail: "\(kind)")
        }
        guard item.length >= count else {
            throw ImageError(.malformed, "a metadata item is too short", at: item.offset.rawValue, detail: "\(kind)")
        }
        return try storage.bytes(at: item.offset, count: count)
    }
}

/// The metadata items whose meaning is known: those of [MS-VHDX] 2.6.2, and three that Microsoft's software uses
/// without having documented them.
enum VHDXItemKind: String, CustomStringConvertible {
    case fileParameters = "file parameters"
    case virtualDiskSize = "virtual disk size"
    case virtualDiskID = "virtual disk ID"
    case logicalSectorSize = "logical sector size"
    case physicalSectorSize = "physical sector size"
    case parentLocator = "parent locator"
    case incompleteFile = "incomplete file"
    case geometry = "CHS parameters"
    case persistentMemoryLabels = "PMEM label area"

    static let all: [VHDXItemKind] = [
        .fileParameters, .virtualDiskSize, .virtualDiskID, .logicalSectorSize, .physicalSectorSize, .parentLocator,
        .incompleteFile, .geometry, .persistentMemoryLabels,
    ]

    var description: String { rawValue }

    /// Whether reading uses the item; the others are only known by name.
    var isRead: Bool { self != .incompleteFile && self != .geometry && self != .persistentMemoryLabels }

    /// The item's identifier, with its text form beside it.
    var guid: GUID {
        switch self {
        case .fileParameters:  // CAA16737-FA36-4D43-B3B6-33F0AA44E76B
            GUID(low: 0x4D43_FA36_CAA1_6737, high: 0x6BE7_44AA_F033_B6B3)
        case .virtualDiskSize:  // 2FA54224-CD1B-4876-B211-5DBED83BF4B8
            GUID(low: 0x4876_CD1B_2FA5_4224, high: 0xB8F4_3BD8_BE5D_11B2)
        case .virtualDiskID:  // BECA12AB-B2E6-4523-93EF-C309E000C746
            GUID(low: 0x4523_B2E6_BECA_12AB, high: 0x46C7_00E0_09C3_EF93)
        case .logicalSectorSize:  // 8141BF1D-A96F-4709-BA47-F233A8FAAB5F
            GUID(low: 0x4709_A96F_8141_BF1D, high: 0x5FAB_FAA8_33F2_47BA)
        case .physicalSectorSize:  // CDA348C7-445D-4471-9CC9-E9885251C556
            GUID(low: 0x4471_445D_CDA3_48C7, high: 0x56C5_5152_88E9_C99C)
        case .parentLocator:  // A8D35F2D-B30B-454D-ABF7-D3D84834AB0C
            GUID(low: 0x454D_B30B_A8D3_5F2D, high: 0x0CAB_3448_D8D3_F7AB)
        case .incompleteFile:  // 71CC85F0-1B69-4E28-9558-C3BF83AE75D3
            GUID(low: 0x4E28_1B69_71CC_85F0, high: 0xD375_AE83_BFC3_5895)
        case .geometry:  // DA02D7BC-3D3A-423C-AC88-2A36AB21479B
            GUID(low: 0x423C_3D3A_DA02_D7BC, high: 0x9B47_21AB_362A_88AC)
        case .persistentMemoryLabels:  // 10E1AE8A-4B7E-4169-A40F-CD70DE928393
            GUID(low: 0x4169_4B7E_10E1_AE8A, high: 0x9383_92DE_70CD_0FA4)
        }
    }
}
