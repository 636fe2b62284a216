package import Bytes
package import Storage

/// VHDX, the disk format of Hyper-V and WSL ([MS-VHDX]): fixed, dynamic and differencing.
package enum VHDX: ImageFormat {
    package static let name = "vhdx"

    /// The unit of everything that the file holds after its header section: 1 MiB ([MS-VHDX] 2.1).
    static let unit: UInt64 = 1 << 20

    package static func text(of identity: GUID) -> String { identity.microsoftText }

    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool {
        guard storage.holds(HostOffset(0), count: 8) else { return false }
        let signature = try storage.bytes(at: HostOffset(0), count: 8)
        return signature.span.bytes.hasASCII("vhdxfile")
    }

    package static func virtualSize(
        of storage: any Storage, options: FormatOptions
    ) throws(ImageError) -> UInt64 {
        guard try recognises(storage) else { throw VHDXFoundation.noSignature }
        let header = try VHDXHeader.current(of: storage)
        // A listing must not read a log of up to 1 GiB. One of ordinary size may change what the metadata says.
        if header.hasLog, header.logLength <= longestListedLog {
            return try VHDXFoundation(storage).metadata.virtualSize
        }
        return try VHDXMetadata(storage, VHDXRegions(storage, header).metadata).virtualSize
    }

    /// A listing reads logs up to this size in bytes; Windows and QEMU make them of 1 MiB.
    private static let longestListedLog: UInt64 = 4 << 20

    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        if request.isWritable { return try VHDXOpen.open(request) }
        let foundation = try VHDXFoundation(request.storage)
        return try VHDXDriver(foundation, cacheBytes: request.options.cacheBytes)
    }
}

/// What is fixed when an image is opened, in the order in which one part leads to the next: headers, log, region table,
/// metadata. All but the headers is read through the log.
struct VHDXFoundation {
    /// The image file as it is on the host.
    let storage: any Storage
    /// The current header.
    let header: VHDXHeader
    /// The file as its log leaves it, where the log is in use.
    let replay: VHDXReplay?
    /// Where the regions are.
    let regions: VHDXRegions
    /// The metadata items that reading needs.
    let metadata: VHDXMetadata

    /// The file that all structures are read from: the replayed one where there is a log to replay.
    var view: any Storage { replay ?? storage }

    static var noSignature: ImageError {
        ImageError(.malformed, "the file does not begin with the VHDX signature")
    }

    /// Reads and checks everything up to the metadata. Throws `.malformed`, `.unsupported`, `.corrupt` or `.io`.
    init(_ storage: any Storage) throws(ImageError) {
        guard try VHDX.recognises(storage) else { throw Self.noSignature }
        let header = try VHDXHeader.current(of: storage)
        var replay: VHDXReplay?
        if header.hasLog { replay = try VHDXReplay(storage, header) }
        let view: any Storage = replay ?? storage
        let regions = try VHDXRegions(view, header)
        metadata = try VHDXMetadata(view, regions.metadata)
        self.storage = storage
        self.header = header
        self.replay = replay
        self.regions = regions
    }
}
