internal import Bytes
package import Storage

/// VHD, the disk format of Virtual PC, Virtual Server, Hyper-V, XenServer and Azure: fixed, dynamic and differencing
/// (VHD specification 1.0).
package enum VHD: ImageFormat {
    package static let name = "vhd"

    package static let aliases = ["vpc"]
    package static let recordedName = "vpc"

    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool {
        try VHDFooters.arePresent(storage)
    }

    package static func virtualSize(
        of storage: any Storage, options: FormatOptions
    ) throws(ImageError) -> UInt64 {
        try VHDFooters.find(storage).footer.size(options.vhdSize)
    }

    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        let footers = try VHDFooters.find(request.storage)
        return footers.footer.type.isSparse ? try openSparse(request, footers) : try openFixed(request, footers)
    }

    package static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        try VHDCheck.run(request, repairs: repairs)
    }

    package static var createOptions: [CreateOption] { VHDCreate.options }

    package static func create(_ request: CreateRequest) throws(ImageError) { try VHDCreate.run(request) }

    private static func openFixed(
        _ request: OpenRequest, _ footers: VHDFooters
    ) throws(ImageError) -> any FormatDriver {
        let size = footers.footer.size(request.options.vhdSize)
        guard size <= footers.dataEnd else {
            throw ImageError(
                .corrupt, "the file ends before the disk does; it was cut short, or -o vhd-size=chs fits it",
                detail: "\(footers.dataEnd) of \(size.counted("byte"))")
        }
        if request.isWritable { try VHDWritable.check(footers) }
        var shape = VHDDescription.shape(footers, request.options, allocationUnit: 4096)
        shape.facts += VHDDescription.facts(footers)
        return VHDFixedDriver(request.storage, shape: shape, isWritable: request.isWritable)
    }

    private static func openSparse(
        _ request: OpenRequest, _ footers: VHDFooters
    ) throws(ImageError) -> any FormatDriver {
        let storage = request.storage
        let options = request.options
        let parts = try VHDParts(storage, footers, size: footers.footer.size(options.vhdSize))
        var shape = VHDDescription.shape(footers, options, allocationUnit: parts.table.blockSize)
        if let remark = try footers.remarkOnCopy(storage) { shape.remarks.append(remark) }
        shape.remarks += (parts.parent?.faults ?? []).map(\.remark)
        if options.vhdBitmap == .honour, parts.parent == nil, let remark = VHDBitmapCheck(storage, parts).remark() {
            shape.remarks.append(remark)
        }
        shape.facts +=
            VHDDescription.facts(footers)
            + VHDDescription.facts(parts.header, hasBatmap: parts.batmap != nil, parent: parts.parent)
        guard request.isWritable else {
            let cache = MetadataCache(storage, limitBytes: options.cacheBytes)
            return VHDSparseDriver(storage, shape: shape, parts, options.vhdBitmap, cache: cache)
        }
        guard footers.place == .end || !storage.hasFixedSize else {
            throw ImageError(
                .readOnly, "a VHD that grows can only be read on a block device: its footer belongs at the very end")
        }
        let session = try VHDWritable.session(storage, footers, parts, cacheBytes: options.cacheBytes)
        return VHDSparseDriver(
            storage, shape: shape, parts, options.vhdBitmap, cache: session.store.reader, session: session)
    }
}
