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
        if first == "--help" || first == "-h" { return (.showing(overview), []) }
        if first == "help" { return (.showing(try help(on: Array(rest.dropFirst()))), []) }
        if first == "--version" || first == "-V" { return (.showing("platter \(Version.text)\n"), []) }
        if let command = all.first(where: { $0.name == first }) { return (command, Array(rest.dropFirst())) }
        try checkTaken(first)
        if rest.count == 1 { try checkQuestion(first) }
        try checkTypo(first, isAlone: rest.count == 1)
        return (.mount, rest)
    }

    private static func checkTaken(_ word: String) throws(Failure) {
        guard taken.contains(word) else { return }
        throw Failure(
            .usage, "\(word): this version of platter has no such command yet; platter --help lists those that it has")
    }

    /// Refuses a first word that can be no source and looks like the name of a command. What has a slash, or is the name
    /// of a file, is a source whatever it looks like.
    private static func checkTypo(_ word: String, isAlone: Bool) throws(Failure) {
        guard !word.isEmpty, !word.hasPrefix("-"), !word.contains("/"), !HostPath.exists(word) else { return }
        let nearest = nearest(to: word)
        guard nearest != nil || isAlone else { return }
        throw .usage("\(word): no such command or file\(Suggestion.hint(nearest.map { "platter \($0)" }))")
    }

    /// Refuses a word that stands alone, is no option, and looks like --help or --version.
    private static func checkQuestion(_ word: String) throws(Failure) {
        guard word.hasPrefix("--"), !OptionTable.mount.options.contains(where: { $0.flags.contains(word) }),
            let nearest = Suggestion.nearest(to: String(word.dropFirst(2)), among: ["help", "version"])
        else { return }
        throw .usage("unknown option '\(word)'\(Suggestion.hint("--" + nearest))")
    }

    private static func nearest(to word: String) -> String? {
        Suggestion.nearest(to: word, among: all.map(\.name) + taken + ["help"])
    }

    /// Returns what `platter help` prints, with a command's name behind it or without.
    private static func help(on words: [String]) throws(Failure) -> String {
        guard let word = words.first, word != "--help", word != "-h" else { return overview }
        guard words.count == 1 else { throw .usage("'\(words[1])' is one argument too many") }
        if word == "help" { return overview }
        if let command = all.first(where: { $0.name == word }) { return command.help() }
        try checkTaken(word)
        throw .usage("\(word): no such command\(Suggestion.hint(nearest(to: word).map { "platter help \($0)" }))")
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
            Wrapping.synopsis(index == 0 ? "usage: platter " : "       platter ", line)
        }.joined()
        return usage + "\n" + Wrapping.paragraphs(description) + (options.isEmpty ? "" : "\noptions:\n" + options)
    }

    private static var overview: String {
        let commands = Wrapping.columns(
            all.map { ($0.name, $0.summary) } + [("help", "explain a command: platter help COMMAND")])
        return """
            usage: platter [mount] [OPTIONS] SOURCE MOUNTPOINT [-o OPTION[,OPTION...]]
                   platter COMMAND [OPTIONS] ...

            Serves VHDX, VHD and qcow2 images as flat raw files: after
            'platter win11.vhdx /mnt/disk' the disk is /mnt/disk/win11.vhdx.raw.
            An image is only read unless -w says to write into it.

            commands:
            \(commands)
            'platter help COMMAND' explains one of them; the manual is platter(1).

            """
    }
}
