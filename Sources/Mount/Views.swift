internal import Bytes
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

    /// One view of an open disk.
    struct View {
        var name: Name
        /// Where its bytes begin on the whole disk, in bytes, if they are those of the whole disk.
        var start: UInt64?
        var open: () throws(ImageError) -> Disk
    }

    /// The views of the open disk of an image, in order. Throws `.io` and `.corrupt`.
    func views(of disk: Disk, in image: ImageFile) throws(ImageError) -> [View] {
        var result: [View] = []
        switch self {
        case .partitions:
            let table = try disk.partitionTable()
            image.tell(of: table, on: disk)
            result = table.entries.map { part in
                View(name: Name("p\(part.number).raw".utf8), start: part.range.lower) { () throws(ImageError) in
                    if let disk = disk.partition(part) { return disk }
                    throw ImageError(.missing, "the partition does not lie on the disk", file: disk.name)
                }
            }
        case .snapshots:
            for (index, snapshot) in disk.snapshots().enumerated() {
                let info = snapshot.info
                var name = ExposedName.sanitised("\(info.id)-\(info.name)".utf8)
                if result.contains(where: { $0.name == name + Name(".raw".utf8) }) { name += Name("~\(index)".utf8) }
                result.append(View(name: name + Name(".raw".utf8), start: nil, open: snapshot.open))
            }
        case .layers:
            let count = disk.layers.count
            for index in 0..<count {
                let start: UInt64? = index == count - 1 ? 0 : nil
                let open = { () throws(ImageError) in disk.layerDisk(count - 1 - index) }
                result.append(View(name: Name("\(index).raw".utf8), start: start, open: open))
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
        return try kind.views(of: disk, in: image).map { entry($0.name) }
    }

    func entry(named name: Name) throws(ImageError) -> Entry? {
        let disk = try image.acquire().disk
        defer { image.release() }
        return try kind.views(of: disk, in: image).first { $0.name == name }.map { entry($0.name) }
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

    /// Partitions are written like the whole disk; snapshots and layers are only read.
    var isWritable: Bool { kind == .partitions && image.isWritable }

    func attributes() throws(ImageError) -> FileAttributes {
        let facts = image.facts
        var result = image.context.fileAttributes(facts, isWritable: isWritable, way: image.way)
        let known = self.shown.withLock { $0?.stamp == facts.stamp ? $0 : nil }
        let shown = if let known { known } else { try look() }
        result.size = shown.size
        result.blocks = shown.blocks
        result.blockSize = shown.blockSize
        return result
    }

    func open(_ mode: OpenMode) throws(ImageError) -> OpenFile {
        if mode.isWriting, !isWritable { throw image.isWritable ? .fileForReading : .mountedForReading }
        try image.context.admit(mode, image.name)
        let (whole, generation) = try image.acquire(writing: mode.isWriting)
        do throws(ImageError) {
            let view = try find(in: whole)
            // The kernel keeps the bytes of a writable disk once, as pages of the whole disk.
            let isAside = whole.isWritable && view.start != nil
            let role = OpenRole(
                image: image, start: view.start ?? 0, isWhole: false, isWriter: mode.isWriting, isAside: isAside,
                isParallel: isAside && mode.isWriting && mode.isDirect)
            return OpenFile(disk: try view.open(), role: role, keepsCache: told.isKnown(generation))
        } catch {
            image.release()
            image.context.log.error("\(error.named(whole.name))")
            throw ImageError(.io, "the view cannot be opened", file: whole.name)
        }
    }

    private func find(in whole: Disk) throws(ImageError) -> ViewKind.View {
        guard let view = try kind.views(of: whole, in: image).first(where: { (view) in view.name == name }) else {
            throw ImageError(.missing, "the image no longer has this view", file: whole.name)
        }
        return view
    }

    private func look() throws(ImageError) -> Shown {
        let whole = try image.acquire().disk
        defer { image.release() }
        let disk = try find(in: whole).open()
        // Never 0 for a disk with bytes, which archivers would take for all zeros.
        let blocks = max(disk.size > 0 ? 1 : 0, try disk.allocatedBytes() / 512)
        let result = Shown(stamp: image.facts.stamp, size: disk.size, blocks: blocks, blockSize: disk.blockSize)
        shown.withLock { $0 = result }
        return result
    }
}
