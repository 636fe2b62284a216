internal import Bytes
internal import Formats
internal import Logging
internal import Storage

/// Opens an image and, link by link, what lies below it.
struct ChainOpener {
    /// More images than this in a chain are taken for an attack.
    static let deepest = 64

    private let path: String
    private let options: DiskOptions
    private var gate: OpenGate
    private var layers: [Layer] = []
    private var table: [any Storage] = []
    private var warned = false

    /// Throws what the directories of the options throw that cannot be opened.
    init(path: String, options: DiskOptions) throws(ImageError) {
        self.path = path
        self.options = options
        gate = try OpenGate(image: path, allowed: options.allowedParents)
    }

    /// The format of a file: the one that the user named, or what its name or its content says. Throws `.unsupported`
    /// and `.malformed`, and `.io`.
    static func format(of storage: any Storage, named name: String?) throws(ImageError) -> any ImageFormat.Type {
        guard let name else { return try Registry.detect(storage) }
        guard let format = Registry.format(named: name) else {
            throw ImageError(.unsupported, "there is no such format", detail: name)
        }
        return format
    }

    /// Opens everything. Throws what `Disk.open` throws.
    mutating func open() throws(ImageError) -> Disk {
        if let overlay = options.overlay {
            try addTop(overlay, named: options.overlayFormat)
            guard let reference = layers[0].parent else {
                throw ImageError(
                    .unsupported, "the overlay is a disk of its own, without a backing file", file: overlay)
            }
            try addSource(reference, of: layers[0])
        } else {
            try addTop(path, named: options.format)
        }
        while let last = layers.last, let parent = last.parent {
            guard layers.count < Self.deepest else {
                throw ImageError(.unsupported, "more than 64 images lie on top of each other", file: path)
            }
            do throws(ImageError) { try addParent(parent, of: last) } catch {
                guard options.acceptsMissingParent else { throw error }
                layers[layers.count - 1].missingParent = error
                break
            }
        }
        return Disk.assemble(layers, table, name: path, options: options)
    }

    /// Opens the topmost image, for writing where the options say so.
    private mutating func addTop(_ path: String, named format: String?) throws(ImageError) {
        let image = try FileStorage(path: path, isWritable: options.writesTop)
        try lock(image, forWriting: options.writesTop)
        let opened: [FileStorage]
        let driver: any FormatDriver
        do throws(ImageError) {
            let format = try Self.format(of: image, named: format)
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
            let format = try Self.format(of: file, named: options.format)
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
    private func driver(
        of file: FileStorage, _ format: any ImageFormat.Type, trusted: Bool, isWritable: Bool = false
    ) throws(ImageError) -> (any FormatDriver, [FileStorage]) {
        let companions = Companions(
            gate: gate, image: file, trusted: trusted, isWritable: isWritable, allowsWriting: options.writesDataFile)
        let request = OpenRequest(
            storage: file, companions: companions, options: options.formatOptions, isWritable: isWritable)
        let driver = try format.open(request)
        return (driver, companions.opened)
    }

    /// Takes a driver and its files into the chain: no file may be there twice, and every one but the image itself is
    /// locked here.
    private mutating func add(
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
    private func makeDurable(_ file: FileStorage) throws(ImageError) {
        if options.writesTop, !file.isWritable { try file.makeDurable() }
    }

    private func isKnown(_ file: any Storage) -> Bool {
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

    /// Finds, opens and verifies the parent of `child`, and adds it. The first file that exists and is the one meant
    /// wins; otherwise the worst failure is thrown.
    private mutating func addParent(_ reference: ParentReference, of child: Layer) throws(ImageError) {
        // Below an overlay the word of the user is about the image's parent.
        if layers.count == (options.overlay == nil ? 1 : 2), let override = options.parentOverride {
            return try addOverride(override, reference, of: child)
        }
        var tried: [String] = []
        var worst: OpenGate.Refusal?
        for name in reference.paths {
            for candidate in try gate.candidates(name, namedBy: child.path) where !tried.contains(candidate) {
                tried.append(candidate)
                do throws(OpenGate.Refusal) {
                    let file = try gate.open(candidate)
                    return try add(file, as: reference, of: child)
                } catch {
                    if error.error.kind == .busy { throw error.error }
                    if error.reason.rawValue > worst?.reason.rawValue ?? -1 { worst = error }
                }
            }
        }
        if let worst, worst.reason != .missing { throw worst.error }
        throw ImageError(
            .missing, "the parent of the image is missing; bring it back to where the image names it",
            detail: tried.isEmpty
                ? "its name is no file name: \(reference.paths.map(\.text).joined(separator: ", "))"
                : "looked for \(tried.joined(separator: ", "))",
            file: child.path)
    }

    /// The parent that the user named in place of the recorded one: it needs no permission, and its own directory is
    /// trusted like the image's.
    private mutating func addOverride(
        _ override: String, _ reference: ParentReference, of child: Layer
    ) throws(ImageError) {
        let file = try FileStorage(path: override)
        for directory in OpenGate.directories(of: override) { try gate.admit(directory) }
        do throws(OpenGate.Refusal) { try add(file, as: reference, of: child) } catch { throw error.error }
    }

    /// Adds `file` as the image that `reference`, of `child`, means, or says why it is not.
    private mutating func add(
        _ file: FileStorage, as reference: ParentReference, of child: Layer
    ) throws(OpenGate.Refusal) {
        do throws(ImageError) {
            guard !isKnown(file) else {
                throw ImageError(.corrupt, "the image is its own parent: its chain comes back to this file")
            }
            try lock(file)
            try makeDurable(file)
            let (driver, opened) = try parentDriver(of: file, recorded: reference.format)
            if !reference.identities.isEmpty { try reference.verify(driver.shape, of: child.shape) }
            try add(driver, path: file.name, opened: opened)
        } catch { throw OpenGate.Refusal(reason: .unusable, error: error.named(file.name)) }
    }

    /// Opens a parent in the format that its child records. Where none is recorded, the user's word counts, or what the
    /// file shows, as long as it names nothing further: its content may be a guest's.
    private func parentDriver(
        of file: FileStorage, recorded: String?
    ) throws(ImageError) -> (any FormatDriver, [FileStorage]) {
        if let recorded, Registry.format(named: recorded) == nil {
            throw ImageError(.unsupported, "the parent is of a format that cannot be read", detail: recorded)
        }
        if let name = recorded ?? options.backingFormat {
            return try driver(of: file, Self.format(of: file, named: name), trusted: true)
        }
        let format: any ImageFormat.Type
        do throws(ImageError) {
            format = try Registry.detect(file)
        } catch {
            guard error.kind == .malformed else { throw error }
            throw ImageError(
                .malformed, "the parent's format is neither recorded nor recognised; name it with -o backing-format=")
        }
        let (driver, opened) = try driver(of: file, format, trusted: false)
        guard driver.parent == nil else { throw .guessNamesFiles }
        return (driver, opened)
    }
}

extension ParentReference {
    /// Throws `.corrupt` unless a disk of shape `parent` is the one that this reference of `child` means. Both must have
    /// sectors of one size, for the child's bitmaps say sector by sector whose bytes count.
    func verify(_ parent: DiskShape, of child: DiskShape) throws(ImageError) {
        guard let identity = parent.identity, identities.contains(identity) else {
            throw ImageError(.corrupt, "not the parent of the image, or changed since the image was made from it")
        }
        guard parent.logicalSectorSize == child.logicalSectorSize else {
            throw ImageError(
                .corrupt, "the sectors of the parent have another size than those of the image above it",
                detail: "\(parent.logicalSectorSize) and \(child.logicalSectorSize.counted("byte"))")
        }
    }
}

extension ImageError {
    /// A parent whose format was guessed, and which names further files.
    static var guessNamesFiles: ImageError {
        ImageError(
            .denied,
            "the parent's format is not recorded, and it names further files; name its format with -o backing-format=")
    }
}
