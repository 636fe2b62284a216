internal import Bytes
internal import Storage

extension VHDX {
    package static let createOptions: [CreateOption] = [
        CreateOption("subformat", "dynamic|fixed", "whether blocks get space when written, or all at once (dynamic)"),
        CreateOption(
            "block_size", "1M…256M", "the unit in which space is given out (0, the default: 1M up to 2 TiB, then more)"),
        CreateOption("log_size", "1M…1G", "the size of the log that protects metadata (default 4M)"),
        CreateOption(
            "block_state_zero", "on|off", "record each block of a dynamic disk as zeros rather than as absent (off)"),
        CreateOption("logical_sector_size", "512|4096", "the sector size that the disk shows (512, or the parent's)"),
        CreateOption("physical_sector_size", "512|4096", "the sector size that the disk recommends (4096)"),
        CreateOption(
            "preallocation", "off|metadata|falloc|full",
            "whether the blocks of a fixed disk are holes of the host (off, the default), set aside or written"),
    ]
}

/// The kind of a new image, as the option `subformat` names it.
private enum VHDXSubformat: String, CaseIterable {
    case dynamic, fixed
}

/// What a fixed disk takes of the host's space at once. The tables are always whole.
enum VHDXPreallocation: String, CaseIterable {
    case off, metadata, falloc, full
}

/// What a new image is to be: the options, checked and with their defaults.
struct VHDXCreateOptions {
    /// The size of the disk in bytes.
    let virtualSize: UInt64
    /// The size of a block in bytes.
    let blockSize: UInt64
    /// The length of the log in bytes.
    let logLength: UInt64
    /// 512 or 4096.
    let logicalSectorSize: UInt32
    /// 512 or 4096.
    let physicalSectorSize: UInt32
    /// Whether every block has its space from the start.
    let isFixed: Bool
    /// Whether every block of a dynamic disk starts as ZERO.
    let startsAsZero: Bool
    /// What becomes of a fixed disk's blocks.
    let preallocation: VHDXPreallocation

    /// A table of this many blocks (16 MiB of entries) still fits the metadata cache whole and is scanned in no time.
    private static let comfortableBlocks: UInt64 = 1 << 21
    private static let maximumBlock: UInt64 = 256 << 20
    private static let maximumSize: UInt64 = 64 << 40

    /// Throws `.outOfRange` for values and sizes that a VHDX cannot have, `.unsupported` for what does not go together.
    init(_ request: CreateRequest) throws(ImageError) {
        let names = Set(VHDX.createOptions.map(\.name))
        if let unknown = request.options.keys.sorted().first(where: { !names.contains($0) }) {
            throw ImageError(.unsupported, "a VHDX has no such option", detail: unknown)
        }
        let values = OptionValues(request.options)
        isFixed = try values.choice("subformat", VHDXSubformat.self) == .fixed
        startsAsZero = try values.flag("block_state_zero") ?? false
        preallocation = try values.choice("preallocation") ?? .off
        let logical = try Self.sector(values, "logical_sector_size")
        let physical = try Self.sector(values, "physical_sector_size")
        logicalSectorSize = logical ?? request.parent?.shape.logicalSectorSize ?? 512
        physicalSectorSize = physical ?? request.parent?.shape.physicalSectorSize ?? 4096
        virtualSize = try Self.size(request, sector: logicalSectorSize)
        blockSize = try Self.block(values, isFixed: isFixed, size: virtualSize)
        logLength = try Self.log(values)
        guard logicalSectorSize <= physicalSectorSize || physical == nil else {
            throw ImageError(.unsupported, "a physical sector cannot be smaller than a logical one")
        }
        guard isFixed || preallocation == .off else {
            throw ImageError(.unsupported, "only a fixed VHDX can be preallocated (subformat=fixed)")
        }
        guard !isFixed || !startsAsZero else {
            throw ImageError(.unsupported, "the blocks of a fixed VHDX are present and cannot start as zero blocks")
        }
        if let parent = request.parent { try check(parent) }
    }

    private func check(_ parent: CreateRequest.Parent) throws(ImageError) {
        guard parent.shape.formatName == VHDX.name else {
            throw ImageError(
                .unsupported, "the parent of a VHDX has to be a VHDX too", detail: "it is \(parent.shape.formatName)")
        }
        guard parent.shape.logicalSectorSize == logicalSectorSize else {
            throw ImageError(
                .unsupported, "the sectors of a disk and of its parent have to be of one size",
                detail: "the parent's have \(parent.shape.logicalSectorSize.counted("byte"))")
        }
        guard !isFixed else { throw ImageError(.unsupported, "a differencing VHDX cannot be fixed") }
        guard !startsAsZero else {
            throw ImageError(.unsupported, "blocks that start as zeros would hide the parent (block_state_zero=on)")
        }
    }

    private static func sector(_ values: OptionValues, _ name: String) throws(ImageError) -> UInt32? {
        guard let bytes = try values.bytes(name) else { return nil }
        guard bytes == 512 || bytes == 4096 else {
            throw ImageError(.outOfRange, "a sector has 512 or 4096 bytes", detail: "\(name)=\(bytes)")
        }
        return UInt32(bytes)
    }

    /// The size asked for; 0 stands for the parent's.
    private static func size(_ request: CreateRequest, sector: UInt32) throws(ImageError) -> UInt64 {
        let size = request.virtualSize == 0 ? request.parent?.shape.virtualSize ?? 0 : request.virtualSize
        guard size > 0 else { throw ImageError(.outOfRange, "the disk has no size") }
        guard size <= maximumSize else {
            throw ImageError(
                .outOfRange, "a VHDX cannot be larger than 64 TiB; make a qcow2", detail: size.counted("byte"))
        }
        guard size % UInt64(sector) == 0 else {
            throw ImageError(
                .outOfRange, "the disk's size is not a multiple of its sectors",
                detail: "\(size.counted("byte")), \(sector) a sector")
        }
        return size
    }

    /// Small blocks serve a mounted disk best: requests of the kernel end at 1 MiB anyway, and the smaller the block, the
    /// more of what a guest discards goes back to the host, and the less a scattered filesystem takes up. Only the table
    /// grows with their number, so blocks double where it would become too large to keep in memory. A fixed disk never
    /// allocates; it gets the 32 MiB that Hyper-V takes, or less where the disk would not fill one.
    private static func block(_ values: OptionValues, isFixed: Bool, size: UInt64) throws(ImageError) -> UInt64 {
        if let block = try values.bytes("block_size"), block > 0 {
            guard block.isPowerOfTwo, (VHDX.unit...maximumBlock).contains(block) else {
                throw ImageError(
                    .outOfRange, "a block has a power of two from 1 to 256 MiB", detail: "block_size=\(block)")
            }
            return block
        }
        var block = isFixed ? VHDX.unit << 5 : VHDX.unit
        while block > VHDX.unit, block > size { block /= 2 }
        while size.dividedRoundingUp(by: block) > comfortableBlocks { block *= 2 }
        return block
    }

    /// A log of 4 MiB holds eight of the longest entries that platter writes; each time it is full it has to be emptied,
    /// at the price of a few barriers.
    private static func log(_ values: OptionValues) throws(ImageError) -> UInt64 {
        let length = try values.bytes("log_size") ?? 0
        guard length > 0 else { return 4 * VHDX.unit }
        guard length % VHDX.unit == 0, length <= VHDXHeader.maximumLogBytes else {
            throw ImageError(.outOfRange, "a log has whole MiB, 1 GiB at most", detail: "log_size=\(length)")
        }
        return length
    }
}
