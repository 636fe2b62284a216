internal import Bytes
internal import Formats
internal import Logging
internal import Storage

/// Opens an image and, link by link, what lies below it.
struct ChainOpener {
    let path: String
    let options: DiskOptions
    var gate: OpenGate
    var layers: [Layer] = []
    var table: [any Storage] = []
    private var warned = false
    /// Whether the image added last says that nothing is to be looked for below it.
    var endsHere = false
    /// How many names in directories may still be read in searches for parents.
    var names = NameSearch.budget

    /// Throws what the directories of the options throw that cannot be opened.
    init(path: String, options: DiskOptions) throws(ImageError) {
        self.path = path
        self.options = options
        gate = try OpenGate(image: path, found: options.found, allowed: options.allowedParents)
    }

    /// Opens everything. Throws what `Disk.open` throws.
    mutating func open() throws(ImageError) -> Disk {
        if let overlay = options.overlay {
            try addTop(overlay, isOverlay: true)
            guard let reference = layers[0].parent else {
                throw ImageError(
                    .unsupported, "the overlay is a disk of its own, without a backing file", file: overlay)
            }
            try addSource(reference, of: layers[0])
        } else {
            try addTop(path)
        }
        while let last = layers.last, let parent = last.parent, !endsHere {
            guard layers.count < options.maxLayers else {
                throw ImageError(
                    .unsupported, "more images lie on top of each other than are opened; -o max-layers=N allows more",
                    detail: "\(options.maxLayers)", file: path)
            }
            do throws(ImageError) { try addParent(parent, of: last) } catch {
                // A host that fails, or has no descriptors left, says nothing about the parent.
                guard options.acceptsMissingParent, override == nil, error.kind != .io else { throw error }
                layers[layers.count - 1].missingParent = error
                break
            }
        }
        if layers.last?.missingParent == nil,
            let override = options.parents.dropFirst(depth).lazy.compactMap({ $0 }).first
        {
            throw ImageError(
                .outOfRange, "more parents are named with -o parent= than the image has below it", detail: override,
                file: path)
        }
        return Disk.assemble(layers, table, name: path, options: options)
    }

    /// Opens the topmost image, for writing where the options say so.
    private mutating func addTop(_ path: String, isOverlay: Bool = false) throws(ImageError) {
        let image =
            if let descriptor = options.found?.descriptor {
                try FileStorage(duplicating: descriptor, name: path, isWritable: options.writesTop)
            } else { try FileStorage(path: path, isWritable: options.writesTop) }
        try lock(image, forWriting: options.writesTop)
        let opened: [FileStorage]
        let driver: any FormatDriver
        do throws(ImageError) {
            let format =
                isOverlay
                ? try DiskOptions.format(named: options.overlayFormat) : try options.format(ofImage: image)
            if !isOverlay { options.reportDoubt(about: image) }
            (driver, opened) = try self.driver(of: image, format, trusted: true, isWritable: options.writesTop)
        } catch { throw error.named(path) }
        try add(driver, path: path, opened: opened, isWritable: options.writesTop)
    }

    /// Opens the image that the user named as what lies below the overlay, whatever that records: in the format that the
    /// user named or that it shows, with its companions, since it is the user's word and no image's.
    private mutating func addSource(_ reference: ParentReference, of overlay: Layer) throws(ImageError) {
        let file = try FileStorage(path: path)
        do throws(ImageError) {
            guard !isKnown(file) else {
                throw ImageError(.corrupt, "the image and its overlay are the same file")
            }
            try lock(file)
            try makeDurable(file)
            let format = try options.format(ofImage: file)
            options.reportDoubt(about: file)
            let (driver, opened) = try driver(of: file, format, trusted: true)
            if !reference.identities.isEmpty { try reference.verify(driver.shape, of: overlay.shape) }
            guard driver.shape.virtualSize == overlay.shape.virtualSize else {
                throw ImageError(
                    .corrupt, "the overlay was made for a disk of another size",
                    detail: "\(overlay.shape.virtualSize) and \(driver.shape.virtualSize.counted("byte"))")
            }
            try add(driver, path: path, opened: opened)
        } catch { throw error.named(path) }
    }

    // MARK: - One image

    /// Opens a file as an image of `format`. Companions of an image that is not `trusted` are refused: its format was
    /// guessed, and a guess must not open further files.
    func driver(
        of file: FileStorage, _ format: any ImageFormat.Type, trusted: Bool, isWritable: Bool = false
    ) throws(ImageError) -> (any FormatDriver, [FileStorage]) {
        let companions = Companions(
            gate: gate, image: file, trusted: trusted, isWritable: isWritable, allowsWriting: options.writesDataFile)
        var formatOptions = options.formatOptions
        // Many layers together take about as much memory for their tables as some tens of them alone.
        if layers.count >= 8 { formatOptions.cacheBytes = formatOptions.cacheBytes / (layers.count + 1) * 8 }
        let request = OpenRequest(
            storage: file, companions: companions, options: formatOptions, isWritable: isWritable)
        let driver = try format.open(request)
        return (driver, companions.opened)
    }

    /// Takes a driver and its files into the chain: no file may be there twice, and every one but the image itself is
    /// locked here.
    mutating func add(
        _ driver: any FormatDriver, path: String, opened: [FileStorage], isWritable: Bool = false
    ) throws(ImageError) {
        for file in opened {
            guard !isKnown(file) else {
                throw ImageError(.corrupt, "the image names a file that its chain already holds", file: path)
            }
            try lock(file, forWriting: isWritable)
            try makeDurable(file)
        }
        let files = driver.files
        guard let first = UInt16(exactly: table.count), table.count + files.count <= Int(UInt16.max) else {
            throw ImageError(.unsupported, "the images lie in too many files", file: path)
        }
        layers.append(Layer(path: path, driver: driver, firstFile: first))
        table += files
    }

    /// What lies below a layer that is written gets into it by fills, so it must not change back after a loss of power:
    /// whoever wrote it may have been killed before it was durable.
    func makeDurable(_ file: FileStorage) throws(ImageError) {
        if options.writesTop, !file.isWritable { try file.makeDurable() }
    }

    func isKnown(_ file: any Storage) -> Bool {
        guard let identity = file.identity else { return false }
        return table.contains { $0.identity?.device == identity.device && $0.identity?.inode == identity.inode }
    }

    /// Takes the locks of a reader or a writer, and brings the size up to date. Throws `.busy` and `.io`.
    mutating func lock(_ file: FileStorage, forWriting: Bool = false) throws(ImageError) {
        let protection: DiskOptions.Protection
        do throws(ImageError) { protection = try options.protect(file, forWriting: forWriting) } catch {
            throw error.named(file.name)
        }
        switch protection {
        case .locked: return
        case .shared(let writer?): return options.log.warning("\(writer.warningOfSharing(file.name))")
        case .none where !options.lock: return
        case .none, .shared(nil):
            if warned { return }
            warned = true
            let why: StaticString = options.sharing == .forced ? "read without locks" : "the filesystem has no locks"
            options.log.warning("\(file.name): \(why); nothing keeps a running VM from writing")
        }
    }

    // MARK: - Parents

    /// Opens a parent in the format that its child records. Where none is recorded, the user's word counts, or what the
    /// file shows, as long as it names nothing further: its content may be a guest's.
    func parentDriver(
        of file: FileStorage, recorded: String?, isUsersWord: Bool
    ) throws(ImageError) -> (any FormatDriver, [FileStorage]) {
        if let recorded, Registry.format(named: recorded) == nil {
            throw ImageError(.unsupported, "the parent is of a format that cannot be read", detail: recorded)
        }
        let (format, isTold) = try options.format(
            ofParent: file, recorded: recorded, isNamed: isUsersWord)
        // What the user named is recognised as the image itself is.
        let isTrusted = isTold || isUsersWord
        let (driver, opened) = try driver(of: file, format, trusted: isTrusted)
        guard isTrusted || driver.parent == nil else { throw .guessNamesFiles }
        return (driver, opened)
    }
}

extension ImageError {
    /// A parent that does not fit, below a disk that would be written.
    static var forcedForReading: ImageError {
        ImageError(
            .denied,
            "not the parent that the image names, so that it is only read; leave -w and --overlay out, or -o force-parent"
        )
    }

    /// A parent whose format was guessed, and which names further files.
    static var guessNamesFiles: ImageError {
        ImageError(
            .denied,
            "the parent's format is not recorded, and it names further files; name its format with -o backing-format=")
    }
}
