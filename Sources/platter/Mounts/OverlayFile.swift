internal import CLinux
internal import Disk
internal import Formats
internal import Glibc
internal import Storage

/// The file that takes the writes of one mount in place of its image (`--overlay`).
///
/// It is a qcow2 image with the image as its backing file. One that this process has made goes away again unless the mount
/// comes to life.
final class OverlayFile {
    /// The path by which `Disk` opens it.
    let path: String
    /// The unnamed file of a temporary overlay, kept until `Disk` has opened it.
    private var unnamed: NewFile?
    private var isNew = false

    /// Finds or makes the overlay of the image at `source`, which `options` open. Throws what making it throws, and where
    /// the file is there and no overlay of that image.
    init(_ overlay: MountSettings.Overlay, source: String, options: DiskOptions) throws(ImageError) {
        switch overlay {
        case .temporary:
            let file = try Self.unnamed(beside: source)
            try Self.fill(file.storage, source: source, options)
            unnamed = file
            path = file.presentPath
        case .file(let name):
            path = HostPath.absolute(name)
            if access(path, F_OK) == 0 {
                try Self.check(path, isOver: source, options)
            } else {
                _ = try NewImage(
                    path: path, format: Self.format(), size: nil,
                    parent: NewImage.Parent(path: source, options: Self.forReading(options))
                ).make()
                isNew = true
            }
        }
    }

    deinit { if isNew { unlink(path) } }

    /// Says that `Disk` has opened it. A temporary one is no longer needed here, and loses the hidden name that it may have while
    /// the process may still remove names.
    func opened() { unnamed = nil }

    /// Says that the mount answers: the overlay stays from now on.
    func keep() { isNew = false }

    private static func format() throws(ImageError) -> any ImageFormat.Type {
        guard let format = Registry.format(named: "qcow2") else {
            throw ImageError(.unsupported, "there is no format for overlays")
        }
        return format
    }

    private static func forReading(_ options: DiskOptions) -> DiskOptions {
        var options = options
        options.isWritable = false
        return options
    }

    /// A file without a name in TMPDIR, or else in the directory of the image.
    private static func unnamed(beside source: String) throws(ImageError) -> NewFile {
        // The file never gets this name, but one that exists would be in its way.
        let name = "/.platter-overlay-" + String(UInt64.random(in: 0...UInt64.max), radix: 36)
        let slash = source.lastIndex(of: "/") ?? source.startIndex
        let wanted = getenv("TMPDIR").map { String(cString: $0) } ?? ""
        let directory = wanted.isEmpty ? String(source[..<slash]) : HostPath.absolute(wanted)
        do throws(ImageError) { return try NewFile(path: directory + name) } catch {
            let said = error.detail ?? (error.errno > 0 ? HostPath.reason(error.errno) : "\(error.what)")
            throw ImageError(
                error.kind == .noSpace ? .noSpace : .denied,
                "no temporary overlay can be made in this directory; name another one in TMPDIR", errno: error.errno,
                detail: said, file: directory.isEmpty ? "/" : directory)
        }
    }

    /// Makes an empty overlay of the image in an open file.
    private static func fill(_ storage: FileStorage, source: String, _ options: DiskOptions) throws(ImageError) {
        let below = try Disk.open(path: source, options: forReading(options))
        let parent = CreateRequest.Parent(
            absolutePath: source, recordedPath: source, shape: below.layers[0].shape, modified: 0)
        try format().create(CreateRequest(storage: storage, virtualSize: below.size, parent: parent))
    }

    /// Throws unless the image at `path` names the one at `source` as its parent: bytes over the wrong image would be
    /// garbage.
    private static func check(_ path: String, isOver source: String, _ options: DiskOptions) throws(ImageError) {
        var options = forReading(options).pinned(to: "qcow2")
        options.backingFormat = nil
        // The overlay's own parent is the source, and those that the user named lie below that.
        options.parents = [nil] + options.parents
        options.maxLayers += 1
        options.found = nil
        options.allowedParents.append(String(source[..<(source.lastIndex(of: "/") ?? source.startIndex)]) + "/")
        let layers = try Disk.open(path: path, options: options).layers
        guard layers.count > 1, (try? HostPath.existing(layers[1].path)) == source else {
            throw ImageError(
                .denied, "the overlay belongs to another image; name another file, or leave it out to have one made",
                detail: layers.count > 1 ? "its parent is \(layers[1].path)" : "it has no parent", file: path)
        }
    }
}
