internal import Bytes
internal import Formats
internal import Logging
package import Storage

extension Disk {
    /// Opens the image at `path` and everything below it. Throws `.missing`, `.denied`, `.busy`, `.malformed`,
    /// `.unsupported`, `.corrupt` or `.io`; the error names the file that it is about.
    package static func open(path: String, options: DiskOptions) throws(ImageError) -> Disk {
        var opener = try ChainOpener(path: path, options: options)
        return try opener.open()
    }

    /// The size in bytes of the disk in the image at `path`, from its headers alone: no lock, no table, no parent.
    /// Throws like `open(path:options:)`.
    package static func virtualSize(path: String, options: DiskOptions) throws(ImageError) -> UInt64 {
        let storage = try FileStorage(path: path)
        defer { storage.close() }
        do throws(ImageError) {
            let format = try ChainOpener.format(of: storage, named: options.format)
            return try format.virtualSize(of: storage, options: options.formatOptions)
        } catch { throw error.named(path) }
    }
}
