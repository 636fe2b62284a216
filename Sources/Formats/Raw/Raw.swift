internal import Bytes
package import Storage

/// A raw disk: the file's bytes are the disk's bytes, so that a directory may hold them beside images.
///
/// Chosen by name or by the user only, never by content: anything else would let a guest choose the format.
package enum Raw: ImageFormat {
    package static let name = "raw"

    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool { false }

    package static func virtualSize(
        of storage: any Storage, options: FormatOptions
    ) throws(ImageError) -> UInt64 { storage.size }

    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        RawDriver(request.storage, isWritable: request.isWritable)
    }
}
