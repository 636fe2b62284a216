internal import CLinux
internal import Disk
internal import Glibc
internal import Storage
internal import Synchronization

/// What the mount shows: one image, or a directory of images.
final class MountTree: Sendable {
    let root: Content
    /// The paths of the disks in image mode.
    let exposedFiles: [String]
    /// What notices changes in directory mode.
    let watcher: Watcher?
    private let classifier: Classifier?
    private let context: MountContext

    /// Opens the source. Throws what opening an image or a directory throws.
    init(_ context: MountContext, onFile: Bool) throws(ImageError) {
        let options = context.options
        self.context = context
        if options.isDirectoryMode {
            let host = try HostRoot(path: options.source)
            let tree = try HostTree(context, host)
            root = try Self.openDirectory(tree, host)
            watcher = tree.watcher
            classifier = tree.classifier
            exposedFiles = []
            return
        }
        watcher = nil
        classifier = nil
        let image = try Self.openImage(context)
        if onFile {
            root = .file(image)
            exposedFiles = [options.mountpoint]
        } else {
            let original = Name(
                (options.sourceName ?? options.source.split(separator: "/").last.map(String.init) ?? "disk").utf8)
            let name = options.name.map { ExposedName.sanitised($0.utf8) } ?? ExposedName.of(original)
            let stem = options.name == nil ? original : ExposedName.stem(of: name)
            root = .directory(ImageRoot(context: context, image: image, name: name, stem: stem))
            exposedFiles = [options.mountpoint + "/" + String(decoding: name, as: UTF8.self)]
        }
    }

    private static func openImage(_ context: MountContext) throws(ImageError) -> ImageFile {
        let path = context.options.source
        let disk = try Disk.open(path: path, options: context.options.disk)
        var facts = clinux_file_facts()
        guard clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 else {
            throw ImageError(.io, "cannot read the file's attributes", errno: errno, file: path)
        }
        let image = ImageFile(
            context: context, source: .named(path), facts: HostFacts(facts), peek: .success(disk.size), disk: disk)
        context.opened(image)
        image.tellOnMounting(disk)
        return image
    }

    private static func openDirectory(_ tree: HostTree, _ root: HostRoot) throws(ImageError) -> Content {
        let place = HostPlace(root: root, path: [UInt8(ascii: ".")])
        let facts = try place.facts()
        try tree.checkForImages(at: place)
        let watcher = tree.watcher
        tree.context.onOpened.withLock { $0 = { watcher.wake() } }
        return .directory(HostDirectory(tree, place, facts, key: .root))
    }

    /// Lets the kernel forget all names and attributes, so that it asks again.
    func rescan(_ table: NodeTable) {
        classifier?.forget()
        context.noticeChange()
        watcher?.forgetAll(table)
    }
}
