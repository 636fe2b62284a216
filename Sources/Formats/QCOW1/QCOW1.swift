internal import Bytes
package import Storage

/// The first qcow format, version 1 (QEMU, block/qcow.c; libqcow's description), for reading: old images still exist,
/// and qcow2 files may name one as their backing file.
package enum QCOW1: ImageFormat {
    package static let name = "qcow"
    package static let aliases = ["qcow1"]

    /// `QFI\xFB`, which qcow2 uses too; the version tells them apart.
    static let magic: UInt32 = 0x5146_49FB

    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool {
        guard storage.size >= 8 else { return false }
        let bytes = try storage.bytes(at: HostOffset(0), count: 8)
        let span = bytes.span.bytes
        return span.big(UInt32.self, at: 0) == magic && span.big(UInt32.self, at: 4) == 1
    }

    package static func virtualSize(
        of storage: any Storage, options: FormatOptions
    ) throws(ImageError) -> UInt64 {
        try Header(reading: storage).virtualSize
    }

    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        guard !request.isWritable else {
            throw ImageError(
                .readOnly, "images of the first qcow format are only read; convert it to qcow2 to write to it")
        }
        let header = try Header(reading: request.storage)
        let parent = try backingReference(header, in: request.storage)
        let cache = MetadataCache(request.storage, limitBytes: request.options.cacheBytes)
        return Driver(header, cache: cache, parent: parent)
    }
}
