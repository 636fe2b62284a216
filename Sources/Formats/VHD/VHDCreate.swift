internal import Bytes
internal import Storage

/// Makes empty images: fixed, dynamic, and differencing ones on a parent.
struct VHDCreate {
    /// The largest disk that programs agree on, in bytes: 0xFF000000 sectors, 2040 GiB.
    static let largestSize: UInt64 = 0xFF00_0000 * 512

    /// Seconds from 1970 to 2000, where a VHD's time stamps begin.
    private static let epoch: Int64 = 946_684_800

    static let options = [
        CreateOption(
            "subformat", "dynamic|fixed|differencing",
            "dynamic grows as it is written; differencing goes with a parent; dynamic by default"),
        CreateOption(
            "block_size", "4K…256M",
            "the unit in which a dynamic image grows; 2M by default, and all that some programs know"),
        CreateOption(
            "force_size", "on|off",
            "off rounds the size up to one that cylinders, heads and sectors can say, for Virtual PC; on by default"),
        CreateOption(
            "preallocation", "off|metadata|full",
            "metadata gives every block of a dynamic image its place, full the host's space too; off by default"),
    ]

    private enum Preallocation: String { case off, metadata, full }

    private let storage: any Storage
    private let parent: CreateRequest.Parent?
    private let size: UInt64
    private let deviceBytes: UInt64?
    private let type: VHDDiskType
    private let blockSize: UInt64
    private let preallocation: Preallocation
    private let footer: [UInt8]

    /// Fills the file of `request`. Throws what `ImageFormat.create` throws.
    static func run(_ request: CreateRequest) throws(ImageError) {
        let create = try VHDCreate(request)
        if create.type == .fixed { try create.writeFixed() } else { try create.writeSparse() }
        try create.storage.flush()
    }

    // MARK: - The request

    private init(_ request: CreateRequest) throws(ImageError) {
        storage = request.storage
        parent = request.parent
        deviceBytes = request.deviceBytes
        type = try Self.type(request)
        blockSize = try Self.blockSize(request.options["block_size"])
        preallocation = try Self.preallocation(request.options["preallocation"], type)
        size = try Self.size(request)
        footer = Self.footer(size: size, type: type, timestamp: Self.timestamp(Self.born(request)))
        if let parent, parent.shape.formatName != VHD.name || parent.shape.identity == nil {
            throw ImageError(
                .unsupported, "the parent of a VHD must be a VHD", detail: parent.shape.formatName)
        }
        guard type == .fixed || size.dividedRoundingUp(by: blockSize) <= 1 << 24 else {
            throw ImageError(.outOfRange, "the disk would have more than 16777216 blocks; choose larger ones")
        }
    }

    /// When the image was made, in seconds since 1970: with its file, but the node of a device is as old as the system is up.
    private static func born(_ request: CreateRequest) -> Int64 {
        if request.deviceBytes != nil { return WallClock.seconds }
        return request.storage.identity.map { $0.birth / 1_000_000_000 } ?? epoch
    }

    private static func type(_ request: CreateRequest) throws(ImageError) -> VHDDiskType {
        switch (request.options["subformat"], request.parent) {
        case ("dynamic", nil), (nil, nil): return .dynamic
        case ("fixed", nil): return .fixed
        case ("differencing", .some), (nil, .some): return .differencing
        case ("dynamic", .some), ("fixed", .some):
            throw ImageError(.unsupported, "an image on a parent is a differencing one: leave subformat out")
        case ("differencing", nil): throw ImageError(.unsupported, "a differencing image needs a parent")
        case (let other, _):
            throw ImageError(.outOfRange, "subformat is dynamic, fixed or differencing", detail: other)
        }
    }

    private static func blockSize(_ text: String?) throws(ImageError) -> UInt64 {
        guard let text else { return 2 << 20 }
        guard let bytes = VHDSizeText.bytes(text), (4096...(256 << 20)).contains(bytes), bytes.isPowerOfTwo else {
            throw ImageError(.outOfRange, "block_size is a power of two from 4K to 256M", detail: text)
        }
        return bytes
    }

    private static func preallocation(_ text: String?, _ type: VHDDiskType) throws(ImageError) -> Preallocation {
        guard let text else { return .off }
        guard let preallocation = Preallocation(rawValue: text) else {
            throw ImageError(.outOfRange, "preallocation is off, metadata or full", detail: text)
        }
        switch (preallocation, type) {
        case (.off, _), (_, .dynamic), (.full, .fixed): return preallocation
        case (_, .differencing):
            throw ImageError(.unsupported, "an image on a parent cannot be preallocated: it would hide the parent")
        case (.metadata, .fixed): throw ImageError(.unsupported, "a fixed image has no metadata to preallocate")
        }
    }

    private static func size(_ request: CreateRequest) throws(ImageError) -> UInt64 {
        var size = request.virtualSize
        guard size > 0, size % 512 == 0 else {
            throw ImageError(
                .outOfRange, "the size of a VHD is a multiple of 512 bytes, and not zero", detail: size.counted("byte"))
        }
        guard size <= largestSize else {
            throw ImageError(
                .outOfRange, "a VHD cannot be larger than 2040 GiB; make a VHDX", detail: size.counted("byte"))
        }
        switch request.options["force_size"] {
        case nil, "on": break
        case "off": size = VHDGeometry.rounded(size / 512) * 512
        case let other: throw ImageError(.outOfRange, "force_size is on or off", detail: other)
        }
        return size
    }

    static func timestamp(_ unixTime: Int64) -> UInt32 { UInt32(clamping: max(unixTime, epoch) - epoch) }

    // MARK: - Structures

    /// A footer (VHD specification, "Hard Disk Footer Format"). The creator is "win ": every program, QEMU of any version
    /// among them, takes the current size of such a disk for its size.
    private static func footer(size: UInt64, type: VHDDiskType, timestamp: UInt32) -> [UInt8] {
        let geometry = VHDGeometry(sectors: size / 512)
        var random = SystemRandomNumberGenerator()
        var bytes = Array("conectix".utf8) + big(UInt32(2)) + big(UInt32(0x0001_0000))
        bytes += big(type == .fixed ? UInt64.max : UInt64(VHDFooter.byteCount))
        bytes += big(timestamp) + big(VHDCreator.windows) + big(UInt32(0x000A_0000)) + Array("Wi2k".utf8)
        bytes += big(size) + big(size)
        bytes += big(geometry.cylinders) + [geometry.heads, geometry.sectorsPerTrack]
        bytes += big(type.rawValue) + [0, 0, 0, 0]
        bytes += (0..<2).flatMap { _ in big(random.next()) }
        bytes += [UInt8](repeating: 0, count: VHDFooter.byteCount - bytes.count)
        return summed(bytes, at: 64)
    }

    /// A dynamic header (VHD specification, "Dynamic Disk Header Format"), its table right behind it.
    private func header(entries: UInt64, tableOffset: UInt64, locators: VHDNewLocators?) -> [UInt8] {
        var bytes = Array("cxsparse".utf8) + Self.big(UInt64.max) + Self.big(tableOffset)
        bytes += Self.big(UInt32(0x0001_0000)) + Self.big(UInt32(clamping: entries))
        bytes += Self.big(UInt32(clamping: blockSize)) + [0, 0, 0, 0]
        if let parent, let locators {
            let identity = parent.shape.identity ?? .zero
            bytes += (0..<16).map { identity.byte($0) } + Self.big(Self.timestamp(parent.modified)) + [0, 0, 0, 0]
            bytes += locators.name + locators.entries
        }
        bytes += [UInt8](repeating: 0, count: VHDDynamicHeader.byteCount - bytes.count)
        return Self.summed(bytes, at: 36)
    }

    static func big(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    /// The structure with its checksum in the four bytes at `field`.
    private static func summed(_ bytes: [UInt8], at field: Int) -> [UInt8] {
        let sum = OnesComplement.of(bytes.span.bytes, zeroing: field)
        return bytes[..<field] + big(sum) + bytes[(field + 4)...]
    }

    // MARK: - Files

    private func writeFixed() throws(ImageError) {
        if preallocation == .full { try writeZeros(at: 0, count: size) }
        // Who opens it looks for the footer at the end, and that of a device does not move.
        let end = max(size, deviceBytes.map { $0 - UInt64(footer.count) } ?? 0)
        try storage.write(at: HostOffset(end), footer)
    }

    /// The copy of the footer, the header, the table, the locators' texts; then the footer where the first block's bitmap
    /// will be.
    private func writeSparse() throws(ImageError) {
        let entries = size.dividedRoundingUp(by: blockSize)
        let tableOffset = UInt64(VHDFooter.byteCount + VHDDynamicHeader.byteCount)
        let tableEnd = (tableOffset + entries * 4 + 511) & ~511
        let locators = parent.map { VHDNewLocators($0, at: tableEnd) }
        let header = header(entries: entries, tableOffset: tableOffset, locators: locators)
        let metadataEnd = tableEnd + UInt64(locators?.texts.count ?? 0)
        let layout = VHDTable(
            offset: tableOffset, entryCount: entries, blockSize: blockSize, virtualSize: size, dataEnd: metadataEnd)
        try storage.write(at: HostOffset(0), footer + header)
        let first = layout.alignedStart(metadataEnd)
        try writeTable(layout, end: tableEnd, first: preallocation == .off ? nil : first)
        if let locators { try storage.write(at: HostOffset(tableEnd), locators.texts) }
        var end = first
        if preallocation != .off {
            for _ in 0..<entries {
                let bitmap = [UInt8](repeating: 0xFF, count: Int(layout.blockSize / (512 * 8)))
                try storage.write(at: HostOffset(end), bitmap)
                if preallocation == .full { try writeZeros(at: end + layout.bitmapBytes, count: blockSize) }
                end += layout.pitch
            }
        }
        try storage.write(at: HostOffset(end), footer)
    }

    /// The table up to byte `end`: blocks one behind the other from byte `first` on, or none.
    private func writeTable(_ layout: VHDTable, end: UInt64, first: UInt64?) throws(ImageError) {
        var block: UInt64 = 0
        var position = layout.offset
        while position < end {
            let count = min(end - position, 1 << 20)
            var piece: [UInt8] = []
            if let first {
                for number in block..<(block + count / 4) {
                    let sector = (first + number * layout.pitch) / 512
                    piece += Self.big(number < layout.entryCount ? UInt32(clamping: sector) : VHDTable.unused)
                }
            } else {
                piece = [UInt8](repeating: 0xFF, count: Int(count))
            }
            try storage.write(at: HostOffset(position), piece)
            position += count
            block += count / 4
        }
    }

    /// Zeros that take the host's space, unlike a hole.
    private func writeZeros(at offset: UInt64, count: UInt64) throws(ImageError) {
        let piece = [UInt8](repeating: 0, count: Int(min(count, 1 << 20)))
        var done: UInt64 = 0
        while done < count {
            let step = min(count - done, UInt64(piece.count))
            try storage.write(
                at: HostOffset(offset + done), step == UInt64(piece.count) ? piece : Array(piece[..<Int(step)]))
            done += step
        }
    }
}
