/// A sub-command.
struct Command: Sendable {
    /// The word after `platter`.
    var name: String
    /// The lines of its synopsis, without `platter`.
    var synopsis: String
    /// One line for `platter --help`.
    var summary: String
    /// All of `platter NAME --help`.
    var help: @Sendable () -> String
    /// Runs it with the arguments behind its name.
    var run: @Sendable ([String]) throws(Failure) -> ExitStatus

    /// Every sub-command, in the order of `platter --help`.
    static let all: [Command] = [.mount, .umount, .list, .info, .map, .check, .create]

    /// Names that later versions have; a file of that name needs a slash.
    static let taken = ["convert", "resize", "compact", "commit", "snapshot"]

    /// Finds the command for a command line (the program's name first) and the arguments that are left for it.
    ///
    /// A sub-command is the exact first word; everything else is `mount`, as mount.fuse3 and fstab call it. The name
    /// under which the program was started counts first: mount.fuse.platter and umount.fuse.platter are helpers.
    static func choose(_ arguments: [String]) throws(Failure) -> (Command, [String]) {
        let program = arguments.first?.split(separator: "/").last.map(String.init) ?? "platter"
        let rest = Array(arguments.dropFirst())
        if program == "umount.fuse.platter" { return (.umountHelper, rest) }
        if program == "mount.fuse.platter" || program == "mount.platter" { return (.mountHelper, rest) }
        guard let first = rest.first else {
            throw .usage("nothing to do: a source and a mountpoint are missing")
        }
        if first == "--help" || first == "-h" || first == "help" { return (.showing(overview), []) }
        if first == "--version" || first == "-V" { return (.showing("platter \(Version.text)\n"), []) }
        if let command = all.first(where: { $0.name == first }) { return (command, Array(rest.dropFirst())) }
        if taken.contains(first) {
            throw Failure(
                .usage,
                "\(first): this version of platter has no such command yet; platter --help lists those that it has")
        }
        return (.mount, rest)
    }

    /// A command that prints a text.
    private static func showing(_ text: String) -> Command {
        Command(name: "", synopsis: "", summary: "", help: { text }) { _ throws(Failure) in
            try Output.print(text)
            return .success
        }
    }

    /// Reads the command line of a command and runs its body, or prints its help.
    static func parsing<Settings>(
        _ table: OptionTable<Settings>, _ initial: Settings, _ arguments: [String], help: () -> String,
        _ body: (Settings, [String]) throws(Failure) -> ExitStatus
    ) throws(Failure) -> ExitStatus {
        switch try table.parse(arguments, into: initial) {
        case .help:
            try Output.print(help())
            return .success
        case .run(let settings, let operands):
            return try body(settings, operands)
        }
    }

    /// The text of `--help` for one command.
    static func helpText(_ synopsis: String, _ description: String, options: String) -> String {
        let usage = synopsis.split(separator: "\n").enumerated().map { index, line in
            (index == 0 ? "usage: platter " : "       platter ") + line + "\n"
        }.joined()
        return usage + "\n" + description + "\n" + (options.isEmpty ? "" : "\noptions:\n" + options)
    }

    private static var overview: String {
        let width = all.map(\.name.count).max() ?? 0
        let commands = all.map { command in
            "  \(command.name)\(String(repeating: " ", count: width - command.name.count + 2))\(command.summary)\n"
        }.joined()
        return """
            usage: platter [mount] [OPTIONS] SOURCE MOUNTPOINT [-o OPTION[,OPTION...]]
                   platter COMMAND [OPTIONS] ...

            Serves VHDX, VHD and qcow2 images as flat raw files: after
            'platter win11.vhdx /mnt/disk' the disk is /mnt/disk/win11.vhdx.raw.
            An image is only read unless -w says to write into it.

            commands:
            \(commands)
            'platter COMMAND --help' explains one of them; the manual is platter(1).

            """
    }
}
