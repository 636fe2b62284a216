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

    private static func openFixed(
        _ request: OpenRequest, _ footers: VHDFooters
    ) throws(ImageError) -> any FormatDriver {
        let size = footers.footer.size(request.options.vhdSize)
        guard size <= footers.dataEnd else {
            throw ImageError(
                .corrupt, "the file ends before the disk does; it was cut short, or -o vhd-size=chs fits it",
                detail: "\(footers.dataEnd) of \(size) bytes")
        }
        var shape = VHDDescription.shape(footers, request.options, allocationUnit: 4096)
        shape.facts += VHDDescription.facts(footers)
        return VHDFixedDriver(request.storage, shape: shape)
    }

    private static func openSparse(
        _ request: OpenRequest, _ footers: VHDFooters
    ) throws(ImageError) -> any FormatDriver {
        let storage = request.storage
        let footer = footers.footer
        let header = try VHDDynamicHeader(storage, at: footer.dataOffset)
        let table = try VHDTable(header, virtualSize: footer.size(request.options.vhdSize), dataEnd: footers.dataEnd)
        let parent = footer.type == .differencing ? try VHDParent(storage, header) : nil
        let hasBatmap = try VHDBatmap.isPresent(storage, footer, header)
        var shape = VHDDescription.shape(footers, request.options, allocationUnit: table.blockSize)
        if let remark = try footers.remarkOnCopy(storage) { shape.remarks.append(remark) }
        shape.facts +=
            VHDDescription.facts(footers) + VHDDescription.facts(header, hasBatmap: hasBatmap, parent: parent)
        let metadata =
            [
                VHDMetadataPart(at: 0, count: UInt64(VHDFooter.byteCount)),
                VHDMetadataPart(at: footer.dataOffset, count: UInt64(VHDDynamicHeader.byteCount)),
                VHDMetadataPart(at: header.tableOffset, count: UInt64(header.maxTableEntries) * 4),
            ] + (parent?.parts ?? [])
        // XenServer's tools of version 0.1 counted a bitmap's bits from the lowest one of a byte.
        let isLowestFirst = footer.creator == VHDCreator.xenServer && footer.creatorVersion == 1
        return VHDSparseDriver(
            storage, shape: shape, parent: parent?.reference, table: table, metadata: metadata,
            order: isLowestFirst ? .lowestFirst : .highestFirst, cacheBytes: request.options.cacheBytes)
    }
}
