internal import Bytes
package import Storage

extension VHDX {
    package static func create(_ request: CreateRequest) throws(ImageError) {
        let options = try VHDXCreateOptions(request)
        let metadata = try VHDXCreateMetadata(options, parent: request.parent)
        guard request.storage.size == 0 else {
            throw ImageError(.unsupported, "the file for the new image is not empty", file: request.storage.name)
        }
        try VHDXCreate(options, metadata, hasParent: request.parent != nil).write(to: request.storage)
    }
}

/// The layout of a new image: header section, log, metadata, table, and the blocks of a fixed disk.
private struct VHDXCreate {
    private let options: VHDXCreateOptions
    private let metadata: VHDXCreateMetadata
    private let blockCount: UInt64
    private let chunkRatio: UInt64
    private let entryCount: UInt64
    private let log: VHDXSpan
    private let metadataRegion: VHDXSpan
    private let table: VHDXSpan

    private static let creator = "platter"
    /// How much is written at once, in bytes.
    private static let piece = 1 << 20

    init(_ options: VHDXCreateOptions, _ metadata: VHDXCreateMetadata, hasParent: Bool) {
        self.options = options
        self.metadata = metadata
        blockCount = options.virtualSize.dividedRoundingUp(by: options.blockSize)
        chunkRatio = UInt64(options.logicalSectorSize) << 23 / options.blockSize
        entryCount = VHDXTable.entryCount(blocks: blockCount, chunkRatio: chunkRatio, hasParent: hasParent)
        log = VHDXSpan(offset: VHDX.unit, length: options.logLength, owner: .log)
        metadataRegion = VHDXSpan(offset: log.end, length: metadata.length, owner: .metadata)
        let bytes = (entryCount * VHDXTable.entryBytes).dividedRoundingUp(by: VHDX.unit) * VHDX.unit
        table = VHDXSpan(offset: metadataRegion.end, length: bytes, owner: .table)
    }

    /// The size of the file: every block of a fixed disk is there, the last one whole.
    private var fileSize: UInt64 { options.isFixed ? table.end + blockCount * options.blockSize : table.end }

    /// Writes everything, and what makes the file a VHDX last, when all the rest is durable: a file that a crash leaves
    /// half made is not taken for an image.
    func write(to storage: any Storage) throws(ImageError) {
        try storage.resize(to: fileSize)
        if options.isFixed {
            try writeTable(to: storage) { (table.end + $0 * options.blockSize) | 6 }
            try takeSpace(of: storage)
        } else if options.startsAsZero {
            try writeTable(to: storage) { _ in 2 }
        }
        try metadata.write(to: storage, at: metadataRegion.offset)
        let regions = VHDXEncode.regionTable(table: table, metadata: metadataRegion)
        for place in VHDXRegions.places { try storage.write(at: HostOffset(place), regions) }
        let identifiers = (file: VHDXEncode.randomGUID(), data: VHDXEncode.randomGUID())
        for slot in [1, 2] {
            let header = VHDXEncode.header(
                sequence: UInt64(slot), fileWriteGUID: identifiers.file, dataWriteGUID: identifiers.data,
                logOffset: log.offset, logLength: UInt32(log.length))
            try storage.write(at: HostOffset(VHDXHeader.place(slot)), header)
        }
        try storage.flush()
        try storage.write(at: HostOffset(0), Self.fileIdentifier())
        try storage.flush()
    }

    /// [MS-VHDX] 2.2.1: the signature, and the program's name in 512 bytes of UTF-16.
    private static func fileIdentifier() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 520)
        VHDXEncode.put("vhdxfile", into: &bytes, at: 0)
        for (index, unit) in creator.utf16.enumerated() { VHDXEncode.put(unit, into: &bytes, at: 8 + index * 2) }
        return bytes
    }

    /// Writes an entry for each block; those of sector bitmaps stay zero.
    private func writeTable(to storage: any Storage, entry: (UInt64) -> UInt64) throws(ImageError) {
        var piece: [UInt8] = []
        piece.reserveCapacity(Self.piece)
        var written: UInt64 = 0
        var block: UInt64 = 0
        for index in 0..<entryCount {
            let isBitmap = index % (chunkRatio + 1) == chunkRatio
            withUnsafeBytes(of: (isBitmap ? 0 : entry(block)).littleEndian) { piece.append(contentsOf: $0) }
            if !isBitmap { block += 1 }
            guard piece.count == Self.piece || index == entryCount - 1 else { continue }
            try storage.write(at: HostOffset(table.offset + written), piece)
            written += UInt64(piece.count)
            piece.removeAll(keepingCapacity: true)
        }
    }

    /// Takes the host's space for the blocks of a fixed disk, as far as that was asked for.
    private func takeSpace(of storage: any Storage) throws(ImageError) {
        let count = fileSize - table.end
        switch options.preallocation {
        case .off, .metadata: break
        case .falloc: try HostSpace.allocate(storage, at: table.end, count: count)
        case .full: try HostSpace.writeZeros(storage, at: table.end, count: count)
        }
    }
}
