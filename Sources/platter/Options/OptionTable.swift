/// One option of a command, in all its spellings: `-w`, `--write`, and `-o write`.
///
/// Parsing and `--help` read the same table, so that they cannot disagree.
struct Option<Settings: Sendable>: Sendable {
    /// How an option's value is set. `spelling` is what the user wrote, for messages.
    typealias Apply =
        @Sendable (_ settings: inout Settings, _ value: String, _ spelling: String) throws(Failure) -> Void

    /// The spellings on the command line: "-f", "--foreground".
    var flags: [String]
    /// The names after `-o`, the first one shown by `--help`.
    var keys: [String]
    /// What stands for the value in `--help` ("SIZE"), or nil when the option takes none.
    var value: String?
    /// One line for `--help`; nil hides the option there.
    var help: String?
    /// Takes the value ("" when the option has none).
    var apply: Apply

    /// An option of its parts.
    init(
        _ flags: [String] = [], keys: [String] = [], value: String? = nil, help: String?, apply: @escaping Apply
    ) {
        self.flags = flags
        self.keys = keys
        self.value = value
        self.help = help
        self.apply = apply
    }

    /// A switch: given or not.
    static func toggle(
        _ flags: [String] = [], keys: [String] = [], help: String?,
        _ set: @escaping @Sendable (inout Settings) throws(Failure) -> Void
    ) -> Option {
        Option(flags, keys: keys, help: help) { settings, _, _ throws(Failure) in try set(&settings) }
    }

    /// An option that is understood and does nothing.
    static func tolerated(_ keys: String..., value: String? = nil) -> [Option] {
        keys.map { Option(keys: [$0], value: value, help: nil) { _, _, _ in } }
    }
}

/// The options of one command, and how its command line is read.
struct OptionTable<Settings: Sendable>: Sendable {
    /// The word after `platter`, for messages.
    var command: String
    /// Every option.
    var options: [Option<Settings>]
    /// Mount options that start with one of these are accepted and mean nothing here ("x-systemd.").
    var toleratedPrefixes: [String] = []
    /// Whether an unknown mount option is ignored: the `-s` of mount helpers.
    var isSloppy: @Sendable (Settings) -> Bool = { _ in false }

    /// What a command line says.
    enum Outcome: Sendable {
        /// `--help` was given.
        case help
        /// The settings, and the arguments that are not options.
        case run(Settings, operands: [String])
    }

    /// Reads a command line; options may stand anywhere before `--`. Throws usage failures that name the option.
    func parse(_ arguments: [String], into initial: Settings) throws(Failure) -> Outcome {
        do throws(Failure) { return try read(arguments, into: initial) } catch { throw error.within(command) }
    }

    private func read(_ arguments: [String], into initial: Settings) throws(Failure) -> Outcome {
        var settings = initial
        var operands: [String] = []
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                operands += rest
                break
            }
            if argument == "--help" || argument == "-h" { return .help }
            if argument.hasPrefix("--") {
                try parseLong(argument, &rest, &settings)
            } else if argument.hasPrefix("-"), argument != "-" {
                try parseShort(argument, &rest, &settings)
            } else {
                operands.append(argument)
            }
        }
        // An empty path would be the working directory.
        if let index = operands.firstIndex(of: "") {
            throw .usage("argument \(index + 1) is empty; is a variable in it not set?", command: command)
        }
        return .run(settings, operands: operands)
    }

    /// `--name`, `--name=VALUE`, `--name VALUE`.
    private func parseLong(
        _ argument: String, _ rest: inout ArraySlice<String>, _ settings: inout Settings
    ) throws(Failure) {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard let option = options.first(where: { $0.flags.contains(parts[0]) }) else {
            throw unknown("option", parts[0])
        }
        guard option.value != nil else {
            guard parts.count == 1 else { throw .usage("option '\(parts[0])' takes no value", command: command) }
            return try option.apply(&settings, "", parts[0])
        }
        try option.apply(&settings, parts.count == 2 ? parts[1] : try value(of: parts[0], &rest), parts[0])
    }

    /// `-f`, `-fd`, `-o LIST`, `-oLIST`.
    private func parseShort(
        _ argument: String, _ rest: inout ArraySlice<String>, _ settings: inout Settings
    ) throws(Failure) {
        var letters = argument.dropFirst()
        while let letter = letters.popFirst() {
            let flag = "-\(letter)"
            guard let option = options.first(where: { $0.flags.contains(flag) }) else {
                guard letter == "o", hasMountOptions else {
                    throw unknown("option", flag, argument)
                }
                let list = letters.isEmpty ? try value(of: flag, &rest) : String(letters)
                return try applyList(list, &settings)
            }
            guard option.value != nil else {
                try option.apply(&settings, "", flag)
                continue
            }
            return try option.apply(&settings, letters.isEmpty ? try value(of: flag, &rest) : String(letters), flag)
        }
    }

    private func value(of flag: String, _ rest: inout ArraySlice<String>) throws(Failure) -> String {
        guard let value = rest.popFirst() else { throw .usage("option '\(flag)' needs a value", command: command) }
        return value
    }

    private var hasMountOptions: Bool { options.contains { !$0.keys.isEmpty } }

    /// Applies a list of mount options, as it stands after `-o` and in fstab.
    func applyList(_ list: String, _ settings: inout Settings) throws(Failure) {
        for item in MountOptionList.items(of: list) {
            if toleratedPrefixes.contains(where: { item.key.hasPrefix($0) }) { continue }
            guard let option = options.first(where: { $0.keys.contains(item.key) }) else {
                if isSloppy(settings) { continue }
                throw unknown("mount option", item.key)
            }
            switch (option.value, item.value) {
            case (nil, nil): try option.apply(&settings, "", item.key)
            case (nil, .some): throw .usage("mount option '\(item.key)' takes no value", command: command)
            case (.some, nil): throw .usage("mount option '\(item.key)' needs a value", command: command)
            case (.some, .some(let value)): try option.apply(&settings, value, item.key)
            }
        }
    }

    /// A failure about an option that is not in the table, with the nearest one that is. `word` is the whole argument
    /// where `name` is only its first letter: `-partitions`.
    private func unknown(_ kind: String, _ name: String, _ word: String? = nil) -> Failure {
        var spellings = ["help": "--help"]
        for option in options where option.help != nil {
            for key in option.keys { spellings[key] = "-o \(key)" }
            for flag in option.flags where flag.hasPrefix("--") { spellings[String(flag.dropFirst(2))] = flag }
        }
        // In a list of mount options the other spelling would be wrong.
        if kind != "option" {
            spellings["help"] = nil
            for option in options { for key in option.keys { spellings[key] = key } }
        }
        let typed = String((word ?? name).drop { $0 == "-" })
        let nearest = Suggestion.nearest(to: typed, among: spellings.keys.sorted())
        return .usage(
            "unknown \(kind) '\(name)'\(Suggestion.hint(nearest.flatMap { spellings[$0] }))", command: command)
    }

    /// The options for `--help`, in two columns.
    var helpText: String {
        Wrapping.columns(
            options.compactMap { option in option.help.map { (Self.spelling(of: option), $0) } })
    }

    private static func spelling(of option: Option<Settings>) -> String {
        var parts = option.flags
        if let value = option.value, let last = parts.last { parts[parts.count - 1] = "\(last) \(value)" }
        if let key = option.keys.first { parts.append("-o \(key)" + (option.value.map { "=\($0)" } ?? "")) }
        return parts.joined(separator: ", ")
    }
}
