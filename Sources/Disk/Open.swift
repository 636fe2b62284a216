internal import Bytes
package import Formats
internal import Logging
package import Storage

extension Disk {
    /// Opens the image at `path` and everything below it. Throws `.missing`, `.denied`, `.busy`, `.malformed`,
    /// `.unsupported`, `.corrupt` or `.io`; the error names the file that it is about.
    package static func open(path: String, options: DiskOptions) throws(ImageError) -> Disk {
        var opener = try ChainOpener(path: path, options: options)
        return try opener.open()
    }

    /// A disk on images that are open already, the topmost first, which is written where `options.isWritable` and it was
    /// opened for that. The disk closes their files.
    package static func assemble(
        _ images: [(path: String, driver: any FormatDriver)], name: String, options: DiskOptions
    ) throws(ImageError) -> Disk {
        var layers: [Layer] = []
        var table: [any Storage] = []
        for image in images {
            guard let first = UInt16(exactly: table.count) else {
                throw ImageError(.unsupported, "the images lie in too many files", file: name)
            }
            layers.append(Layer(path: image.path, driver: image.driver, firstFile: first))
            table += image.driver.files
        }
        guard !layers.isEmpty else { throw ImageError(.outOfRange, "a disk of no images", file: name) }
        return assemble(layers, table, name: name, options: options)
    }

    /// A disk on `layers`, which are not empty and whose files are in `table`.
    static func assemble(_ layers: [Layer], _ table: [any Storage], name: String, options: DiskOptions) -> Disk {
        let decoded = DecodeCache(limitBytes: options.decodeCacheBytes)
        let writer =
            options.writesTop
            ? Writer(
                driver: layers[0].driver, top: Level(layers[...]), decoded: decoded, name: name, log: options.log) : nil
        let open = OpenFiles(
            table, decoded: decoded, reporter: FailureReporter(options.log), writer: writer,
            isShared: options.sharing != .refused, tableSectorSize: options.tableSectorSize)
        return Disk(name: name, layers: layers, window: ByteRange(0, to: layers[0].shape.virtualSize), open: open)
    }

    /// The size in bytes of the disk in the image at `path`, from its headers alone: no lock, no table, no parent.
    /// Throws like `open(path:options:)`.
    package static func virtualSize(path: String, options: DiskOptions) throws(ImageError) -> UInt64 {
        let storage = try FileStorage(path: path)
        defer { storage.close() }
        do throws(ImageError) {
            let format = try options.format(ofImage: storage)
            return try format.virtualSize(of: storage, options: options.formatOptions)
        } catch { throw error.named(path) }
    }
}
