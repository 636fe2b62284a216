internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
internal import Mount

/// The operands of `mount`, as absolute paths: the server leaves the user's working directory.
///
/// Whether the mountpoint will do is the session's to say; here is only what makes the command line itself wrong.
struct MountPlan: Sendable {
    /// The absolute path of the image or directory, without symbolic links.
    var source: String
    /// The name of the image as the user typed it, which may be that of a link, and the directory of that, without links;
    /// nil for a directory of images.
    var typed: (name: String, directory: String)?
    /// The absolute path of the mountpoint, without symbolic links where it exists.
    var mountpoint: String
    /// Whether every image below a directory is served.
    var isDirectoryMode: Bool

    /// Looks at the operands. Throws one line that names the operand and the way out.
    init(_ operands: [String], _ settings: MountSettings) throws(Failure) {
        guard operands.count >= 2 else {
            let missing = operands.isEmpty ? "a source and a mountpoint are" : "a mountpoint is"
            throw .usage("\(missing) missing", command: "mount")
        }
        guard operands.count == 2 else {
            throw .usage("'\(operands[2])' is one argument too many", command: "mount")
        }
        guard access(operands[0], F_OK) == 0 else {
            throw Failure(
                .mount, "\(operands[0]): \(HostPath.reason(errno)); the source is an image or a directory of images")
        }
        source = try HostPath.existing(operands[0], .mount)
        isDirectoryMode = Self.kind(of: source) == S_IFDIR
        typed = isDirectoryMode ? nil : Self.typed(operands[0])
        if let source = try DeadMount.clear(at: operands[1]) {
            Output.report(Failure(.success, "\(operands[1]): removed a mount of \(source) whose server had died"))
        }
        mountpoint = (try? HostPath.existing(operands[1])) ?? HostPath.absolute(operands[1])
        try check(settings)
    }

    /// Returns where a path that was typed leads, but for a link at its end; nil where it ends with no name.
    private static func typed(_ path: String) -> (name: String, directory: String)? {
        let absolute = HostPath.absolute(path)
        guard let slash = absolute.lastIndex(of: "/") else { return nil }
        let name = String(absolute[absolute.index(after: slash)...])
        guard !name.isEmpty, name != ".", name != "..",
            let directory = try? HostPath.existing(slash == absolute.startIndex ? "/" : String(absolute[..<slash]))
        else { return nil }
        return (name, directory)
    }

    private static func kind(of path: String) -> UInt32? {
        var facts = clinux_file_facts()
        return clinux_facts_at(AT_FDCWD, path, 0, &facts) == 0 ? facts.mode & UInt32(S_IFMT) : nil
    }

    private func check(_ settings: MountSettings) throws(Failure) {
        if isDirectoryMode, settings.name != nil {
            throw .usage("'name' is for one image; the images of a directory keep their names", command: "mount")
        }
        if isDirectoryMode, settings.overlay != nil {
            throw .usage("'overlay' is for one image, and \(source) is a directory", command: "mount")
        }
        if isDirectoryMode, !settings.image.parents.isEmpty || settings.image.forcesParent {
            let word = settings.image.parents.isEmpty ? "force-parent" : "parent"
            throw .usage("'\(word)' is for one image, and \(source) is a directory", command: "mount")
        }
        if !isDirectoryMode, settings.followsLinks {
            throw .usage(
                "'follow-links' is for a directory of images; the link that names one image is always followed",
                command: "mount")
        }
        guard Self.kind(of: mountpoint) == S_IFREG else { return }
        let extras = [
            ("partitions", settings.showsPartitions), ("snapshots", settings.showsSnapshots),
            ("layers", settings.showsLayers), ("name", settings.name != nil),
        ]
        if let extra = extras.first(where: { $0.1 }) {
            throw .usage(
                "'\(extra.0)' needs a directory as mountpoint, and \(mountpoint) is a regular file", command: "mount")
        }
    }

    /// What the session is to do.
    func options(_ settings: MountSettings, log: Logger) throws(Failure) -> MountOptions {
        var options = MountOptions(
            source: source, mountpoint: mountpoint, isDirectoryMode: isDirectoryMode,
            disk: try settings.image.diskOptions(log: log), log: log)
        if let typed {
            options.sourceName = typed.name
            let real = source.lastIndex(of: "/").map { $0 == source.startIndex ? "/" : String(source[..<$0]) } ?? "/"
            let directories = real == typed.directory ? [real] : [real, typed.directory]
            options.disk.found = DiskOptions.Found(directories: directories)
        }
        options.isWritable = settings.isWritable
        options.disk.writesDataFile = settings.writesDataFile
        options.truncationDiscards = settings.truncationDiscards
        options.name = settings.name
        options.partitions = settings.showsPartitions
        options.snapshots = settings.showsSnapshots
        options.layers = settings.showsLayers
        options.followsLinks = settings.followsLinks
        options.allowOther = settings.allowOther
        options.uid = settings.uid
        options.gid = settings.gid
        options.fmask = settings.fileMask ?? settings.umask
        options.dmask = settings.directoryMask ?? settings.umask ?? 0
        options.kernelMountOptions = settings.kernelFlags
        options.threads = settings.threads
        options.debug = settings.isDebug
        options.attrTimeout = settings.attributeTimeout
        options.entryTimeout = settings.entryTimeout
        options.allowNonEmpty = settings.allowsNonEmpty
        options.version = Version.text
        return options
    }
}
