internal import Bytes
internal import Formats
internal import Logging
internal import Storage

/// Opens an image and, link by link, what lies below it.
final class ChainOpener {
    private let options: DiskOptions
    private let image: FileStorage

    init(path: String, options: DiskOptions) throws(ImageError) {
        self.options = options
        image = try FileStorage(path: path)
    }

    /// The format of a file: the one that the user named, or what its name or its content says.
    static func format(of storage: any Storage, named name: String?) throws(ImageError) -> any ImageFormat.Type {
        guard let name else { return try Registry.detect(storage) }
        guard let format = Registry.format(named: name) else {
            throw ImageError(.unsupported, "there is no such format", detail: name)
        }
        return format
    }

    func open() throws(ImageError) -> Disk {
        if options.lock { try lock(image) }
        let driver: any FormatDriver
        do throws(ImageError) {
            let format = try Self.format(of: image, named: options.format)
            driver = try format.open(
                OpenRequest(storage: image, companions: NoCompanions(), options: options.formatOptions))
            guard driver.parent == nil else {
                throw ImageError(.unsupported, "images with a parent are not opened yet")
            }
        } catch { throw error.named(image.name) }
        let open = OpenFiles(
            driver.files, decoded: DecodeCache(limitBytes: options.decodeCacheBytes),
            reporter: FailureReporter(options.log))
        let layer = Layer(path: image.name, driver: driver, firstFile: 0)
        return Disk(
            name: image.name, layers: [layer], window: ByteRange(0, to: driver.shape.virtualSize), open: open)
    }

    private func lock(_ file: FileStorage) throws(ImageError) {
        if try !FileLock.lockForReading(file) {
            options.log.warning("\(file.name): the filesystem has no locks; nothing keeps a running VM from writing")
        }
    }
}

private struct NoCompanions: CompanionOpener {
    func openDataFile(_ name: String) throws(ImageError) -> any Storage {
        throw ImageError(.unsupported, "external data files are not opened yet", detail: name)
    }
}
