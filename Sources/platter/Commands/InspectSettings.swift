internal import CLinux
internal import Disk
internal import Formats
internal import Logging
internal import Storage

/// The options of `info` and `map`.
struct InspectSettings: HasImageSettings {
    var image = ImageSettings()
    var isJSON = false
    var showsChain = false
}

extension OptionTable where Settings == InspectSettings {
    private static let common: [Option<InspectSettings>] = [
        .toggle(["--json"], help: "write JSON") { $0.isJSON = true }
    ]

    /// The options of `platter info`.
    static let info = OptionTable(
        command: "info",
        options: common + [
            .toggle(["--chain"], help: "say the same about every image below") { $0.showsChain = true },
            .shareOption,
        ] + Option.partitionOptions + Option.imageOptions)

    /// The options of `platter map`.
    static let map = OptionTable(command: "map", options: common + [.shareOption] + Option.imageOptions)
}

extension ImageSettings {
    /// What `Disk` wants to know, with directories as the user's working directory has them.
    func diskOptions(log: Logger) throws(Failure) -> DiskOptions {
        var directories: [String] = []
        for directory in allowedParents { directories.append(try HostPath.existing(directory)) }
        // Links stay as they were typed: the directory of one is trusted as well.
        var options = DiskOptions(
            format: format, backingFormat: backingFormat,
            formatOptions: FormatOptions(vhdSize: vhdSize, vhdBitmap: vhdBitmap, cacheBytes: Int(cacheBytes)),
            allowedParents: directories, parents: parents.map(HostPath.absolute), forcesParent: forcesParent,
            maxLayers: maxLayers, sharing: forcesShare ? .forced : .refused, log: log,
            tableSectorSize: tableSectorSize)
        options.formatRules = formatRules
        return options
    }
}

extension InspectSettings {
    /// The one operand of a command about an image.
    static func image(_ operands: [String], command: String) throws(Failure) -> String {
        guard let path = operands.first else { throw .usage("an image is missing", command: command) }
        guard operands.count == 1 else { throw .usage("'\(operands[1])' is one argument too many", command: command) }
        return path
    }

    /// Opens the image that a command is about, also where its parent is missing or a VM is using it; remarks and read errors
    /// go to standard error.
    func open(_ path: String) throws(Failure) -> Disk {
        var options = try image.diskOptions(log: Log.make(.standardError, level: .warning))
        options.acceptsMissingParent = true
        if options.sharing == .refused { options.sharing = .whileBusy }
        // Every image of a chain takes a descriptor.
        _ = clinux_raise_descriptor_limit()
        do throws(ImageError) {
            return try Disk.open(path: path, options: options)
        } catch { throw Failure(.system, error, path: path) }
    }
}
