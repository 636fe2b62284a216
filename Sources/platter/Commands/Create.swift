internal import Disk
internal import Formats
internal import Glibc
internal import Logging
internal import Storage

/// The options of `create`.
struct CreateSettings: Sendable {
    /// `-f`, or nil to go by the name.
    var format: String?
    /// Every `-o`, in order.
    var options: [MountOptionList.Item] = []
    var parent: String?
    var parentFormat: String?
    /// The format of the parent's own parents that record none.
    var backingFormat: String?
    /// What the child records of its parent, or nil for the way from the one to the other.
    var recordedParent: String?
    var allowedParents: [String] = []
    var replaces = false
    var isQuiet = false
}

extension OptionTable where Settings == CreateSettings {
    /// The options of `platter create`.
    static let create = OptionTable(
        command: "create",
        options: [
            Option(["-f", "--format"], value: "FORMAT", help: "the image's format (default: by the name's extension)") {
                settings, value, name throws(Failure) in settings.format = try Values.text(value, name)
            },
            Option(["-o"], value: "K=V[,...]", help: "options of the format; '-o help' lists them") {
                settings, value, _ in settings.options += MountOptionList.items(of: value)
            },
            Option(["--parent", "-b"], value: "IMAGE", help: "make a differencing child of IMAGE (its backing file)") {
                settings, value, name throws(Failure) in settings.parent = try Values.text(value, name)
            },
            Option(["--parent-format", "-F"], value: "FORMAT", help: "the parent's format (default: found)") {
                settings, value, name throws(Failure) in settings.parentFormat = try Values.text(value, name)
            },
            Option(["--parent-path"], value: "TEXT", help: "the name to record for the parent (default: relative)") {
                settings, value, name throws(Failure) in settings.recordedParent = try Values.text(value, name)
            },
            Option(["--allow-parents"], value: "DIR", help: "the parent's own parents may also lie below DIR") {
                settings, value, name throws(Failure) in settings.allowedParents.append(try Values.text(value, name))
            },
            .toggle(["--force"], help: "replace IMAGE, and the data_file that it is given, if they exist") {
                $0.replaces = true
            },
            .toggle(["-q", "--quiet"], help: "say nothing on success") { $0.isQuiet = true },
        ])
}

extension Command {
    /// `platter create`.
    static let create: Command = {
        let synopsis = "create [-f FORMAT] [-o K=V[,K=V...]] [--parent IMAGE] [--force] IMAGE [SIZE]"
        let help = { @Sendable in
            helpText(
                synopsis,
                """
                Makes an empty image of SIZE bytes (512, 10G, 1.5T), or a child of another image, whose size is the
                default then. It gets its name when it is whole; a file that is there already stays.
                """,
                options: OptionTable.create.helpText)
        }
        return Command(
            name: "create", synopsis: synopsis, summary: "make an empty image, or a child of another", help: help
        ) { arguments throws(Failure) in
            try parsing(.create, CreateSettings(), arguments, help: help) { settings, operands throws(Failure) in
                try ImageCreation(settings, operands).run()
            }
        }
    }()
}

/// One run of `platter create`.
struct ImageCreation {
    private var settings: CreateSettings
    private let operands: [String]

    init(_ settings: CreateSettings, _ operands: [String]) throws(Failure) {
        self.settings = settings
        self.operands = operands
        try takeParent()
    }

    /// Makes the image, or lists the options.
    func run() throws(Failure) -> ExitStatus {
        let format = try format()
        if settings.options.contains(where: { ($0.key == "help" || $0.key == "?") && $0.value == nil }) {
            try Output.print(Self.help(on: format))
            return .success
        }
        let image = try newImage(format)
        let size: UInt64
        do throws(ImageError) { size = try image.make() } catch { throw failure(error) }
        if !settings.isQuiet {
            let below = settings.parent.map { ", a child of \(Printable.line($0))" } ?? ""
            Output.tell("\(Printable.line(image.path)): \(format.name), \(Printable.size(size))\(below)\n")
        }
        return .success
    }

    /// qemu-img's names for the parent, which are options of the format there, and `backing-format`, which is about the
    /// parent's own parents as in every other command.
    private mutating func takeParent() throws(Failure) {
        for item in settings.options {
            guard Self.parentOptions.contains(item.key) else { continue }
            guard let value = item.value, !value.isEmpty else {
                throw .usage("option '\(item.key)' needs a value", command: "create")
            }
            switch item.key {
            case "backing_file": settings.parent = value
            case "backing_fmt": settings.parentFormat = value
            default: settings.backingFormat = value
            }
        }
        settings.options.removeAll { Self.parentOptions.contains($0.key) }
        if settings.parent == nil, settings.parentFormat != nil || settings.recordedParent != nil {
            throw .usage(
                "the parent's format or name is given, and no parent; name it with --parent", command: "create")
        }
    }

    private static let parentOptions = ["backing_file", "backing_fmt", "backing-format"]

    private func format() throws(Failure) -> any ImageFormat.Type {
        let names = Registry.formats.map { $0.name }.joined(separator: ", ")
        if let name = settings.format {
            if let format = Registry.format(named: name) { return format }
            throw .usage("there is no format '\(name)'; it is one of \(names)", command: "create")
        }
        if let image = operands.first, let format = Registry.format(forNewFile: image) { return format }
        throw .usage("the name does not say which format is wanted; name it with -f: \(names)", command: "create")
    }

    private func newImage(_ format: any ImageFormat.Type) throws(Failure) -> NewImage {
        guard let path = operands.first else { throw .usage("an image is missing", command: "create") }
        guard operands.count <= 2 else {
            throw .usage("'\(operands[2])' is one argument too many", command: "create")
        }
        var size: UInt64?
        if operands.count == 2 {
            guard let bytes = DiskSize.bytes(operands[1]) else {
                throw .usage(
                    "'\(operands[1])' is no size, or too large for any disk; say 512, 64M, 1.5T, ...", command: "create"
                )
            }
            size = bytes
        } else if settings.parent == nil {
            throw .usage("a size is missing; only a child of another image may do without", command: "create")
        }
        return NewImage(
            path: path, format: format, size: size, options: try options(of: format), parent: try parent(),
            replaces: settings.replaces)
    }

    /// The options by name. Throws where the format has no such option, naming those that it has.
    private func options(of format: any ImageFormat.Type) throws(Failure) -> [String: String] {
        var options: [String: String] = [:]
        for item in settings.options {
            guard format.createOptions.contains(where: { $0.name == item.key }) else {
                let names = format.createOptions.map(\.name).joined(separator: ", ")
                let known = names.isEmpty ? "it has none" : "it has \(names)"
                let nearest = Suggestion.nearest(to: item.key, among: format.createOptions.map(\.name))
                throw .usage(
                    "\(format.name) has no option '\(item.key)'\(Suggestion.hint(nearest)); \(known)", command: "create"
                )
            }
            // As with qemu-img, a switch without a value is one that is on.
            guard options.updateValue(item.value ?? "on", forKey: item.key) == nil else {
                throw .usage("option '\(item.key)' is given twice", command: "create")
            }
        }
        return options
    }

    private func parent() throws(Failure) -> NewImage.Parent? {
        guard let path = settings.parent else { return nil }
        var image = ImageSettings()
        image.format = try parentFormat(settings.parentFormat)
        image.backingFormat = try parentFormat(settings.backingFormat)
        image.allowedParents = settings.allowedParents
        // The name is checked for what a String cannot hold.
        _ = try HostPath.existing(path, .system)
        var options = try image.diskOptions(log: Log.make(.standardError, level: .warning))
        options.formatOption = .newParent
        return NewImage.Parent(path: path, options: options, recorded: settings.recordedParent)
    }

    private func parentFormat(_ name: String?) throws(Failure) -> String? {
        guard let name else { return nil }
        guard let format = Registry.format(named: name) else {
            throw .usage("there is no format '\(name)' for the parent", command: "create")
        }
        return format.name
    }

    /// Values that the format does not have are the user's mistake; the rest is the system's.
    private func failure(_ error: ImageError) -> Failure {
        let status: ExitStatus = error.kind == .outOfRange || error.kind == .unsupported ? .usage : .system
        return Failure(status, error, path: operands.first ?? "")
    }

    /// What `-o help` prints.
    private static func help(on format: any ImageFormat.Type) -> String {
        let rows = format.createOptions.map { ("\($0.name)=\($0.values)", $0.meaning) }
        return "options of \(format.name):\n" + (rows.isEmpty ? "  none\n" : Wrapping.columns(rows))
    }
}
