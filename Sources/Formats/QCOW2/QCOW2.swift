internal import Bytes
package import Storage

/// qcow2 versions 2 and 3 (QEMU, docs/interop/qcow2), for reading and writing: every cluster size and refcount width, zero and
/// compressed clusters, subclusters, backing and data files, and internal snapshots.
package enum QCOW2: ImageFormat {
    package static let name = "qcow2"

    /// `QFI\xFB`, which the old qcow format uses too; the version tells them apart.
    static let magic: UInt32 = 0x5146_49FB

    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool {
        guard storage.size >= 8 else { return false }
        let bytes = try storage.bytes(at: HostOffset(0), count: 8)
        let span = bytes.span.bytes
        return span.big(UInt32.self, at: 0) == magic && span.big(UInt32.self, at: 4) != 1
    }

    package static func virtualSize(
        of storage: any Storage, options: FormatOptions
    ) throws(ImageError) -> UInt64 {
        let header = try Header(reading: storage)
        if header.hasUnknownFeatures { try refuseFeatures(of: header, in: storage) }
        _ = try header.activeTables(fileSize: storage.size)
        return header.virtualSize
    }

    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        let storage = request.storage
        let header = try headerForUse(request)
        let extensions = try Extensions(reading: storage, header)
        try header.checkFeatures(names: extensions.featureNames)
        let tables = try header.activeTables(fileSize: storage.size)
        let parent = backingReference(extensions)
        let dataFile = try openDataFile(header, extensions, request.companions)
        let cacheBytes = request.options.cacheBytes
        let store = request.isWritable ? MetadataStore(storage, limitBytes: cacheBytes) : nil
        let cache = store?.reader ?? MetadataCache(storage, limitBytes: cacheBytes)
        let snapshots = try SnapshotTable(reading: cache, header)
        let image = OpenImage(
            header: header, files: dataFile.map { [storage, $0] } ?? [storage], cache: cache, parent: parent,
            decoder: dataFile == nil ? header.decoder : nil, snapshots: snapshots)
        var writer: Writer?
        if let store {
            try checkWritable(header, snapshots)
            writer = try Writer(
                image, tables, store: store, fixed: fixedTables(header, extensions, snapshots),
                cacheBytes: cacheBytes)
            try writer?.surveyAtOpen()
        }
        return Driver(image, tables, shape: shape(of: header, extensions, parent, snapshots), writer: writer)
    }

    /// The header. Where the image is to be written and was not closed, its refcounts are made right first.
    private static func headerForUse(_ request: OpenRequest) throws(ImageError) -> Header {
        let header = try Header(reading: request.storage)
        guard request.isWritable, header.has(.dirty), !header.has(.corrupt), !header.hasUnknownFeatures else {
            return header
        }
        try repair(request.storage)
        return try Header(reading: request.storage)
    }

    private static func refuseFeatures(of header: Header, in storage: any Storage) throws(ImageError) {
        try header.checkFeatures(names: Extensions(reading: storage, header).featureNames)
    }

    private static func openDataFile(
        _ header: Header, _ extensions: Extensions, _ companions: any CompanionOpener
    ) throws(ImageError) -> (any Storage)? {
        guard header.has(.externalDataFile) else { return nil }
        guard let name = extensions.dataFileName, !name.isEmpty else {
            throw ImageError(.missing, "the disk's bytes are in a data file that the image does not name")
        }
        guard !RecordedName.isProtocol(name) else {
            throw ImageError(
                .denied, "the image names a data file by protocol, and only plain file names are followed",
                detail: name)
        }
        return try companions.openDataFile(name)
    }
}

extension QCOW2 {
    /// What the active disk and the snapshots of one open image share.
    struct OpenImage: Sendable {
        /// The header, as it was at open.
        let header: Header
        /// The image and, in slot 1, its external data file if it has one.
        let files: [any Storage]
        /// The tables of the image file.
        let cache: MetadataCache
        /// The backing file as recorded.
        let parent: ParentReference?
        /// What decodes compressed clusters; nil with a data file, which cannot have them.
        let decoder: (any BlockDecoder)?
        /// The internal snapshots.
        let snapshots: SnapshotTable

        /// Where the guest's clusters lie: the last file.
        var dataSlot: FileSlot { FileSlot(rawValue: UInt16(files.count - 1)) }
    }
}
