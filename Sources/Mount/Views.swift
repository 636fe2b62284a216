internal import Disk
internal import Formats
internal import Logging
internal import Storage
internal import Synchronization

/// The kinds of views that an image can have in the mount, each a directory beside it.
enum ViewKind: String, Sendable, CaseIterable {
    case partitions = "parts"
    case snapshots = "snaps"
    case layers = "layers"

    /// Whether the user asked for this kind.
    func isWanted(_ options: MountOptions) -> Bool {
        switch self {
        case .partitions: options.partitions
        case .snapshots: options.snapshots
        case .layers: options.layers
        }
    }

    /// The name of the directory for the image whose views are named after `stem`.
    func directoryName(_ stem: Name) -> Name { stem + [UInt8(ascii: ".")] + Name(rawValue.utf8) }

    /// The directories of all kinds that the user asked for.
    static func entries(of image: ImageFile, key: NodeKey, stem: Name) -> [Entry] {
        allCases.filter { $0.isWanted(image.context.options) }.map { kind in
            entry(of: { image }, key: key, kind, stem: stem)
        }
    }

    /// The directory of one kind; the image is made only when the directory is not known yet.
    static func entry(
        of image: @escaping @Sendable () -> ImageFile, key: NodeKey, _ kind: ViewKind, stem: Name
    ) -> Entry {
        Entry(kind.directoryName(stem), .views(kind, of: key), isDirectory: true) {
            .directory(ViewDirectory(image: image(), kind, key: key))
        }
    }

    /// The views of an open disk with their names, in order. Throws `.io` and `.corrupt`.
    func views(of disk: Disk) throws(ImageError) -> [(name: Name, open: () throws(ImageError) -> Disk)] {
        var result: [(name: Name, open: () throws(ImageError) -> Disk)] = []
        switch self {
        case .partitions:
            for part in try disk.partitions() { result.append((Name("p\(part.number).raw".utf8), { part.disk })) }
        case .snapshots:
            for (index, snapshot) in disk.snapshots().enumerated() {
                let info = snapshot.info
                var name = ExposedName.sanitised("\(info.id)-\(info.name)".utf8)
                if result.contains(where: { $0.name == name + Name(".raw".utf8) }) { name += Name("~\(index)".utf8) }
                result.append((name + Name(".raw".utf8), snapshot.open))
            }
        case .layers:
            let count = disk.layers.count
            for index in 0..<count {
                result.append((Name("\(index).raw".utf8), { disk.layerDisk(count - 1 - index) }))
            }
        }
        return result
    }
}

/// A directory of the views of one image. Listing it opens the image.
final class ViewDirectory: DirectoryContent {
    private let image: ImageFile
    private let kind: ViewKind
    private let key: NodeKey

    init(image: ImageFile, _ kind: ViewKind, key: NodeKey) {
        self.image = image
        self.kind = kind
        self.key = key
    }

    var timeout: Double { image.timeout }

    func attributes() throws(ImageError) -> FileAttributes { image.context.directoryAttributes(image.facts) }

    func entries() throws(ImageError) -> [Entry] {
        let disk = try image.acquire().disk
        defer { image.release() }
        return try kind.views(of: disk).map { entry($0.name) }
    }

    func entry(named name: Name) throws(ImageError) -> Entry? {
        let disk = try image.acquire().disk
        defer { image.release() }
        return try kind.views(of: disk).first { $0.name == name }.map { entry($0.name) }
    }

    private func entry(_ name: Name) -> Entry {
        let (image, kind) = (image, kind)
        return Entry(name, .view(name, kind, of: key), isDirectory: false) {
            .file(ViewFile(image: image, kind, name: name))
        }
    }
}

/// One partition, snapshot or layer as a file.
final class ViewFile: FileContent {
    private struct Shown {
        var stamp: FileStamp
        var size: UInt64
        var blocks: UInt64
        var blockSize: UInt32
    }

    private let image: ImageFile
    private let kind: ViewKind
    private let name: Name
    private let told = Generation()
    private let shown = Mutex<Shown?>(nil)

    init(image: ImageFile, _ kind: ViewKind, name: Name) {
        self.image = image
        self.kind = kind
        self.name = name
    }

    var timeout: Double { image.timeout }

    func attributes() throws(ImageError) -> FileAttributes {
        let facts = image.facts
        var result = image.context.fileAttributes(facts)
        let known = self.shown.withLock { $0?.stamp == facts.stamp ? $0 : nil }
        let shown = if let known { known } else { try look() }
        result.size = shown.size
        result.blocks = shown.blocks
        result.blockSize = shown.blockSize
        return result
    }

    func open() throws(ImageError) -> OpenFile {
        let (whole, generation) = try image.acquire()
        do throws(ImageError) {
            let disk = try find(in: whole)
            let image = image
            return OpenFile(disk: disk, keepsCache: told.isKnown(generation), counters: image.counters) {
                image.release()
            }
        } catch {
            image.release()
            image.context.log.error("\(error.named(whole.name))")
            throw ImageError(.io, "the view cannot be opened", file: whole.name)
        }
    }

    private func find(in whole: Disk) throws(ImageError) -> Disk {
        guard let view = try kind.views(of: whole).first(where: { (view) in view.name == name }) else {
            throw ImageError(.missing, "the image no longer has this view", file: whole.name)
        }
        return try view.open()
    }

    private func look() throws(ImageError) -> Shown {
        let whole = try image.acquire().disk
        defer { image.release() }
        let disk = try find(in: whole)
        // Never 0 for a disk with bytes, which archivers would take for all zeros.
        let blocks = max(disk.size > 0 ? 1 : 0, try disk.allocatedBytes() / 512)
        let result = Shown(stamp: image.facts.stamp, size: disk.size, blocks: blocks, blockSize: disk.blockSize)
        shown.withLock { $0 = result }
        return result
    }
}
