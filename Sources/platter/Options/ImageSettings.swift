internal import Disk
internal import Formats
internal import Storage

/// How an image is to be opened: what `mount`, `info` and `map` have in common.
struct ImageSettings: Sendable {
    /// The image's format, or nil to find it.
    var format: String?
    /// The formats of files with certain names, in the order in which they were given.
    var formatRules: [FormatRule] = []
    /// The format of parents that record none, or nil to trust what is recorded.
    var backingFormat: String?
    /// Which of a VHD's two sizes counts.
    var vhdSize = FormatOptions.VHDSize.current
    /// What the sector bitmaps of a dynamic VHD mean.
    var vhdBitmap = FormatOptions.VHDBitmap.honour
    /// The limit on cached metadata of one image in bytes.
    var cacheBytes: UInt64 = 32 << 20
    /// Files that take the places of the parents that the image names, the nearest first.
    var parents: [String] = []
    /// Whether a parent that is not the recorded one is read all the same.
    var forcesParent = false
    /// How many images may lie on top of each other.
    var maxLayers = DiskOptions.usualLayers
    /// The unit of the disk's partition table in bytes, 512 or 4096; nil to find it.
    var tableSectorSize: UInt64?
    /// Directories below which files that an image names may be opened, besides the image's own.
    var allowedParents: [String] = []
    /// Nothing is locked, so that an image can be looked at while a VM is using it.
    var forcesShare = false
}

/// Settings that hold image settings.
protocol HasImageSettings: Sendable {
    /// How to open the image.
    var image: ImageSettings { get set }
}

extension Option where Settings: HasImageSettings {
    /// The options about opening an image, shared by every command that opens one.
    static var imageOptions: [Option] {
        [
            Option(
                keys: ["format"], value: "NAME",
                help: "the image's format: \(formatNames); NAME:PATTERN for files of that name (repeatable)"
            ) { settings, value, name throws(Failure) in
                guard let colon = value.firstIndex(of: ":") else {
                    settings.image.format = try formatName(value, name)
                    return
                }
                let pattern = String(value[value.index(after: colon)...])
                settings.image.formatRules.append(
                    FormatRule(
                        format: try formatName(String(value[..<colon]), name), pattern: try namePattern(pattern, name)))
            },
            Option(
                keys: ["backing-format"], value: "NAME", help: "the format of a parent whose child does not record it"
            ) { settings, value, name throws(Failure) in settings.image.backingFormat = try formatName(value, name) },
            Option(keys: ["vhd-size"], value: "WHICH", help: "the size of a VHD: current (default) or chs") {
                settings, value, name throws(Failure) in
                guard let size = FormatOptions.VHDSize(rawValue: value) else {
                    throw .usage("'\(name)' is one of current, chs, not '\(value)'")
                }
                settings.image.vhdSize = size
            },
            Option(
                keys: ["vhd-bitmap"], value: "HOW",
                help: "sectors that a dynamic VHD calls absent: zeros (honour, default), or what lies there (ignore)"
            ) { settings, value, name throws(Failure) in
                settings.image.vhdBitmap = try Values.choice(value, name, of: FormatOptions.VHDBitmap.self)
            },
            Option(keys: ["cache-size"], value: "SIZE", help: "metadata kept in memory for each image (default 32M)") {
                settings, value, name throws(Failure) in
                let size = try Values.size(value, name)
                guard size <= 1 << 40 else { throw .usage("'\(name)' is at most 1T, not '\(value)'") }
                settings.image.cacheBytes = size
            },
            Option(
                keys: ["parent"], value: "FILE",
                help: "the image's parent is FILE now; again for the parent of that (repeatable)"
            ) { settings, value, name throws(Failure) in settings.image.parents.append(try Values.text(value, name)) },
            .toggle(keys: ["force-parent"], help: "read over a parent whose identity is not the recorded one") {
                $0.image.forcesParent = true
            },
            Option(keys: ["max-layers"], value: "N", help: "open chains of up to N images (default 256, at most 1024)")
            {
                settings, value, name throws(Failure) in
                settings.image.maxLayers = try Values.integer(value, name, in: 1...1024)
            },
            Option(
                ["--allow-parents"], keys: ["allow-parents"], value: "DIR",
                help: "parents and data files may also lie below DIR (repeatable)"
            ) { settings, value, name throws(Failure) in
                settings.image.allowedParents.append(try Values.text(value, name))
            },
        ]
    }

    /// The option for looking at an image that another program is using, of every command that only reads.
    static var shareOption: Option {
        .toggle(
            ["-U", "--force-share"], keys: ["force-share"],
            help: "take no locks: look at an image that a VM is using"
        ) { $0.image.forcesShare = true }
    }

    /// The option of the commands that read partition tables.
    static var partitionOptions: [Option] {
        [
            Option(
                keys: ["sector-size"], value: "N", help: "the unit of the partition table in bytes: 512 or 4096"
            ) { settings, value, name throws(Failure) in
                guard value == "512" || value == "4096" else {
                    throw .usage("'\(name)' is 512 or 4096, not '\(value)'")
                }
                settings.image.tableSectorSize = UInt64(value)
            }
        ]
    }

    private static var formatNames: String { Registry.formats.map { $0.name }.joined(separator: ", ") }

    private static func namePattern(_ text: String, _ name: String) throws(Failure) -> NamePattern {
        guard let pattern = NamePattern(text) else {
            throw .usage(
                "'\(name)' needs a pattern for a file's name without its directory, of *, ?, [a-z] and [!a-z], not '\(text)'"
            )
        }
        return pattern
    }

    private static func formatName(_ value: String, _ name: String) throws(Failure) -> String {
        guard let format = Registry.format(named: value) else {
            throw .usage("'\(name)' is one of \(formatNames), not '\(value)'")
        }
        return format.name
    }
}
