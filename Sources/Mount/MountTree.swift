internal import CLinux
internal import Disk
internal import Glibc
internal import Storage

/// What the mount shows: one image, or a directory of images.
final class MountTree: Sendable {
    let root: Content
    /// The paths of the disks in image mode.
    let exposedFiles: [String]

    /// Opens the source. Throws what opening an image or a directory throws.
    init(_ context: MountContext, onFile: Bool) throws(ImageError) {
        let options = context.options
        let image = try Self.openImage(context)
        if onFile {
            root = .file(image)
            exposedFiles = [options.mountpoint]
        } else {
            let original = Name((options.source.split(separator: "/").last.map(String.init) ?? "disk").utf8)
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
            context: context, source: .named(path), facts: HostFacts(facts), peek: .success(disk.size), disk: disk,
            timeout: 86400)
        context.opened(image)
        return image
    }
}
