internal import Bytes
internal import Storage

/// A part of the file that no payload block may touch.
struct VHDXSpan: BitwiseCopyable {
    /// What the part is.
    enum Owner: BitwiseCopyable {
        case header
        case log
        case table
        case metadata
        case other

        /// What is wrong with a block that lies there.
        var collision: StaticString {
            switch self {
            case .header: "a block lies within the header section"
            case .log: "a block overlaps the log"
            case .table: "a block overlaps the block allocation table"
            case .metadata: "a block overlaps the metadata region"
            case .other: "a block overlaps a region that belongs to something else"
            }
        }

        var name: String {
            switch self {
            case .header: "the header section"
            case .log: "the log"
            case .table: "the BAT region"
            case .metadata: "the metadata region"
            case .other: "another region"
            }
        }
    }

    /// The first byte in the host file.
    var offset: UInt64
    /// The length in bytes; offset + length fits 64 bits.
    var length: UInt64
    /// What it is.
    var owner: Owner

    /// The byte after the last one.
    var end: UInt64 { offset + length }

    /// The units of 1 MiB that it takes.
    var units: Range<UInt64> { offset / VHDX.unit..<end.dividedRoundingUp(by: VHDX.unit) }
}

/// The region table: where the BAT, the metadata and anything else is ([MS-VHDX] 2.2.3).
struct VHDXRegions {
    /// The BAT region.
    let table: VHDXSpan
    /// The metadata region.
    let metadata: VHDXSpan
    /// Everything that is not block space, sorted by offset, without overlaps: header section, log, all regions.
    let reserved: [VHDXSpan]
    /// Whether the first copy is damaged and the second was used.
    let usedSecond: Bool
    /// How many optional regions there are that platter does not know.
    let unknownCount: Int

    /// The size of a copy of the table in bytes.
    static let bytes = 64 << 10
    /// Where the two copies are, in bytes.
    static let places: [UInt64] = [192 << 10, 256 << 10]
    private static let maximumCount: UInt32 = 2047
    private static let maximumTableBytes: UInt64 = 513 << 20
    /// Longer metadata regions are refused, in bytes.
    static let maximumMetadataBytes: UInt64 = 128 << 20
    /// The BAT region: 2DC27766-F623-4200-9D64-115E9BFD4A08.
    static let tableGUID = GUID(low: 0x4200_F623_2DC2_7766, high: 0x084A_FD9B_5E11_649D)
    /// The metadata region: 8B7CA206-4790-4B9A-B8FE-575F050F886E.
    static let metadataGUID = GUID(low: 0x4B9A_4790_8B7C_A206, high: 0x6E88_0F05_5F57_FEB8)

    /// Reads the first valid copy. Throws `.malformed`, `.unsupported` for a required region that is unknown, `.io`.
    init(_ storage: any Storage, _ header: VHDXHeader) throws(ImageError) {
        var copy = try storage.bytes(at: HostOffset(192 << 10), count: Self.bytes)
        usedSecond = !Self.isValid(copy)
        if usedSecond {
            guard storage.holds(HostOffset(256 << 10), count: UInt64(Self.bytes)) else {
                throw ImageError(.malformed, "the region table is damaged, and the file ends before its copy")
            }
            copy = try storage.bytes(at: HostOffset(256 << 10), count: Self.bytes)
            guard Self.isValid(copy) else {
                throw ImageError(.malformed, "both region tables are damaged (signature, checksum or entry count)")
            }
        }
        let regions = try Self.parse(copy)
        guard let table = regions.first(where: { $0.owner == .table }) else {
            throw ImageError(.malformed, "the region table names no block allocation table (BAT)")
        }
        guard let metadata = regions.first(where: { $0.owner == .metadata }) else {
            throw ImageError(.malformed, "the region table names no metadata region")
        }
        guard table.length <= Self.maximumTableBytes else {
            throw ImageError(
                .malformed, "the BAT region is longer than any disk needs", detail: table.length.counted("byte"))
        }
        guard metadata.length <= Self.maximumMetadataBytes else {
            throw ImageError(.unsupported, "the metadata region is too long", detail: metadata.length.counted("byte"))
        }
        self.table = table
        self.metadata = metadata
        unknownCount = regions.count - 2
        var all = regions
        all.append(VHDXSpan(offset: 0, length: VHDX.unit, owner: .header))
        if header.logLength > 0 {
            all.append(VHDXSpan(offset: header.logOffset, length: header.logLength, owner: .log))
        }
        reserved = try Self.disjoint(all)
    }

    /// What a block of `length` bytes (at least 1) at `offset` would overlap, or nil; offset + length fits 64 bits.
    func collision(at offset: UInt64, length: UInt64) -> VHDXSpan.Owner? {
        var low = 0
        var high = reserved.count
        while low < high {
            let middle = (low + high) / 2
            if reserved[middle].end <= offset { low = middle + 1 } else { high = middle }
        }
        guard low < reserved.count, reserved[low].offset < offset + length else { return nil }
        return reserved[low].owner
    }

    /// Whether a copy's signature, count and checksum are right.
    static func isValid(_ copy: [UInt8]) -> Bool {
        let span = copy.span.bytes
        guard span.hasASCII("regi"), span.little(UInt32.self, at: 8) <= maximumCount else { return false }
        return span.little(UInt32.self, at: 4) == CRC32C.of(span, zeroing: 4)
    }

    private static func parse(_ copy: [UInt8]) throws(ImageError) -> [VHDXSpan] {
        let span = copy.span.bytes
        let count = Int(span.little(UInt32.self, at: 8))
        var regions: [VHDXSpan] = []
        var seen: Set<GUID> = []
        for index in 0..<count {
            let entry = 16 + index * 32
            let guid = GUID(span, at: entry)
            let offset: UInt64 = span.little(at: entry + 16)
            let length = UInt64(span.little(UInt32.self, at: entry + 24))
            guard seen.insert(guid).inserted else {
                throw ImageError(.malformed, "the region table names a region twice", detail: guid.microsoftText)
            }
            var owner = VHDXSpan.Owner.other
            if guid == tableGUID { owner = .table } else if guid == metadataGUID { owner = .metadata }
            guard owner != .other || span.little(UInt32.self, at: entry + 28) & 1 == 0 else {
                throw ImageError(
                    .unsupported, "the image needs a region that platter does not know", detail: guid.microsoftText)
            }
            guard offset >= VHDX.unit, offset % VHDX.unit == 0, length % VHDX.unit == 0, length > 0,
                offset.checkedAdding(length) != nil
            else {
                throw ImageError(.malformed, "a region does not lie on MiB boundaries", detail: guid.microsoftText)
            }
            regions.append(VHDXSpan(offset: offset, length: length, owner: owner))
        }
        return regions
    }

    private static func disjoint(_ spans: [VHDXSpan]) throws(ImageError) -> [VHDXSpan] {
        let sorted = spans.sorted { $0.offset < $1.offset }
        for (earlier, later) in zip(sorted, sorted.dropFirst()) where earlier.end > later.offset {
            throw ImageError(
                .malformed, "two parts of the file overlap", at: later.offset,
                detail: "\(earlier.owner.name) and \(later.owner.name)")
        }
        return sorted
    }
}
