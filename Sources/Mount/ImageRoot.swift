internal import Storage

/// The root directory of image mode: the disk, its views, and `.platter`.
final class ImageRoot: DirectoryContent {
    let timeout: Double
    private let context: MountContext
    private let image: ImageFile
    private let fixed: [Entry]

    /// A directory that shows `image` as `name`, and its views under names that begin with `stem`.
    init(context: MountContext, image: ImageFile, name: Name, stem: Name) {
        self.context = context
        self.image = image
        timeout = image.timeout
        var entries = [Entry(name, .image, isDirectory: false) { .file(image) }]
        entries += ViewKind.entries(of: image, key: .image, stem: stem)
        fixed = entries
    }

    func entries() throws(ImageError) -> [Entry] { fixed + [ControlDirectory.entry(context)] }

    func entry(named name: Name) throws(ImageError) -> Entry? {
        if name == ControlDirectory.name { return ControlDirectory.entry(context) }
        return fixed.first { $0.name == name }
    }

    func attributes() throws(ImageError) -> FileAttributes { context.directoryAttributes(image.facts) }
}
