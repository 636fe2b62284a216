import Bytes
import Formats
import Storage
import TestSupport

/// Makes a VHDX from its parts, right or wrong: 1 MiB of headers, the log, the metadata, the BAT, then blocks in the order
/// in which they are added.
struct VHDXBuilder {
    struct Region {
        var guid: String
        var offset: UInt64
        var length: UInt64
        var isRequired = true
    }

    struct Item {
        var guid: String
        var bytes: [UInt8]
        var flags: UInt32 = 6
        /// Where it says it is, instead of where it is.
        var offset: UInt32?
    }

    static let mib: UInt64 = 1 << 20
    static let logGUID = "11111111-2222-3333-4444-555555555555"
    static let dataGUID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    static let tableRegion = "2DC27766-F623-4200-9D64-115E9BFD4A08"
    static let metadataRegion = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
    static let fileParameters = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
    static let parentLocator = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"

    var virtualSize: UInt64
    var blockSize: UInt64
    var sectorSize: UInt64
    var hasParent: Bool
    var regions: [Region]
    var items: [Item] = []
    var logLength: UInt64
    var logGUID = "00000000-0000-0000-0000-000000000000"
    /// Table entries by their index, sector bitmaps included.
    var entries: [UInt64: UInt64] = [:]
    /// Where the next block goes.
    var nextFree: UInt64
    /// Where the table and the metadata are, whatever `regions` says.
    let tableOffset: UInt64
    let metadataOffset: UInt64
    let storage: SparseMemoryStorage

    init(
        size: UInt64, blockSize: UInt64 = mib, sectorSize: UInt64 = 512, isFixed: Bool = false,
        locator: [(String, String)]? = nil, logLength: UInt64 = mib
    ) {
        virtualSize = size
        self.blockSize = blockSize
        self.sectorSize = sectorSize
        hasParent = locator != nil
        self.logLength = logLength
        let metadata = Self.mib + logLength
        let ratio = sectorSize << 23 / blockSize
        let blocks = (size + blockSize - 1) / blockSize
        let bytes = ((blocks / ratio + 1) * (ratio + 1) * 8 + Self.mib - 1) / Self.mib * Self.mib
        regions = [
            Region(guid: Self.tableRegion, offset: metadata + Self.mib, length: bytes),
            Region(guid: Self.metadataRegion, offset: metadata, length: Self.mib),
        ]
        metadataOffset = metadata
        tableOffset = metadata + Self.mib
        nextFree = tableOffset + bytes
        storage = SparseMemoryStorage(size: nextFree)
        items = [
            Item(
                guid: Self.fileParameters,
                bytes: Self.little(UInt32(blockSize)) + Self.little(UInt32((isFixed ? 1 : 0) | (hasParent ? 2 : 0))),
                flags: 4),
            Item(guid: "2FA54224-CD1B-4876-B211-5DBED83BF4B8", bytes: Self.little(size)),
            Item(guid: "BECA12AB-B2E6-4523-93EF-C309E000C746", bytes: [UInt8](repeating: 9, count: 16)),
            Item(guid: "8141BF1D-A96F-4709-BA47-F233A8FAAB5F", bytes: Self.little(UInt32(sectorSize))),
            Item(guid: "CDA348C7-445D-4471-9CC9-E9885251C556", bytes: Self.little(UInt32(4096))),
        ]
        if let locator { items.append(Item(guid: Self.parentLocator, bytes: Self.locator(locator), flags: 4)) }
    }

    var ratio: UInt64 { sectorSize << 23 / blockSize }

    func tableIndex(_ block: UInt64) -> UInt64 { block + block / ratio }

    /// Gives a block space at the end of the file and content there; returns where.
    @discardableResult
    mutating func add(_ block: UInt64, state: UInt64 = 6, _ bytes: [UInt8], at offset: UInt64? = nil) -> UInt64 {
        let place = offset ?? nextFree
        if offset == nil { nextFree += blockSize }
        entries[tableIndex(block)] = place | state
        storage.patch(bytes, at: place)
        if offset == nil, UInt64(bytes.count) < blockSize { storage.patch([0], at: nextFree - 1) }
        return place
    }

    /// Gives a chunk a sector bitmap with these bytes at its start; returns where.
    @discardableResult
    mutating func addBitmap(chunk: UInt64, _ bytes: [UInt8], state: UInt64 = 6) -> UInt64 {
        let place = nextFree
        nextFree += Self.mib
        entries[chunk * (ratio + 1) + ratio] = place | state
        storage.patch(bytes, at: place)
        storage.patch([0], at: nextFree - 1)
        return place
    }

    /// Writes all structures and returns the file.
    func build() -> SparseMemoryStorage {
        storage.patch(Array("vhdxfile".utf8), at: 0)
        storage.patch("made by a test".utf16.flatMap { Self.little($0) }, at: 8)
        storage.patch(header(sequence: 7), at: 64 << 10)
        storage.patch(header(sequence: 8), at: 128 << 10)
        storage.patch(regionTable(), at: 192 << 10)
        storage.patch(regionTable(), at: 256 << 10)
        storage.patch(metadata(), at: metadataOffset)
        for (index, word) in entries { storage.patch(Self.little(word), at: tableOffset + index * 8) }
        return storage
    }

    func open() throws(ImageError) -> DriverReader { try Self.open(build()) }

    static func open(_ storage: any Storage, parent: DriverReader? = nil) throws(ImageError) -> DriverReader {
        DriverReader(try VHDX.open(OpenRequest(storage: storage, companions: NoCompanions())), parent: parent)
    }

    func header(sequence: UInt64, version: UInt16 = 1, logVersion: UInt16 = 0, logOffset: UInt64 = mib) -> [UInt8] {
        var bytes = Array("head".utf8) + Self.little(UInt32(0)) + Self.little(sequence)
        bytes += Self.guid("01020304-0506-0708-090a-0b0c0d0e0f10") + Self.guid(Self.dataGUID) + Self.guid(logGUID)
        bytes += Self.little(logVersion) + Self.little(version) + Self.little(UInt32(logLength))
        bytes += Self.little(logOffset)
        bytes += [UInt8](repeating: 0, count: 4096 - bytes.count)
        return Self.sealed(bytes)
    }

    func regionTable(count: UInt32? = nil) -> [UInt8] {
        var bytes = Array("regi".utf8) + Self.little(UInt32(0))
        bytes += Self.little(count ?? UInt32(regions.count)) + Self.little(UInt32(0))
        for region in regions {
            bytes += Self.guid(region.guid) + Self.little(region.offset) + Self.little(UInt32(region.length))
            bytes += Self.little(UInt32(region.isRequired ? 1 : 0))
        }
        bytes += [UInt8](repeating: 0, count: (64 << 10) - bytes.count)
        return Self.sealed(bytes)
    }

    private func metadata() -> [UInt8] {
        var table = Array("metadata".utf8) + Self.little(UInt16(0)) + Self.little(UInt16(items.count))
        table += [UInt8](repeating: 0, count: 20)
        var content: [UInt8] = []
        for item in items {
            let offset = item.bytes.isEmpty ? 0 : UInt32(64 << 10) + UInt32(content.count)
            table += Self.guid(item.guid) + Self.little(item.offset ?? offset) + Self.little(UInt32(item.bytes.count))
            table += Self.little(item.flags) + Self.little(UInt32(0))
            content += item.bytes
        }
        return table + [UInt8](repeating: 0, count: (64 << 10) - table.count) + content
    }

    // MARK: - Bytes

    static func little<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        (0..<(Value.bitWidth / 8)).map { UInt8(truncatingIfNeeded: value >> Value($0 * 8)) }
    }

    static func guid(_ text: String) -> [UInt8] {
        guard let guid = GUID(microsoft: text) else { preconditionFailure("no GUID: \(text)") }
        return (0..<16).map { guid.byte($0) }
    }

    /// With the checksum at byte 4 that the bytes need.
    static func sealed(_ bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        let checksum = CRC32C.of(bytes.span.bytes, zeroing: 4)
        bytes.replaceSubrange(4..<8, with: little(checksum))
        return bytes
    }

    static func locator(_ pairs: [(String, String)], type: String = "B04AEFB7-D19E-4A81-B789-25B8E9445913") -> [UInt8] {
        var head = guid(type) + little(UInt16(0)) + little(UInt16(pairs.count))
        var text: [UInt8] = []
        let start = 20 + pairs.count * 12
        for (key, value) in pairs {
            let (key, value) = (key.utf16.flatMap { little($0) }, value.utf16.flatMap { little($0) })
            head += little(UInt32(start + text.count)) + little(UInt32(start + text.count + key.count))
            head += little(UInt16(key.count)) + little(UInt16(value.count))
            text += key + value
        }
        return head + text
    }
}
