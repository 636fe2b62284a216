/// The options of `list`.
struct ListSettings: Sendable {
    var isJSON = false
}

extension OptionTable where Settings == ListSettings {
    /// The options of `platter list`.
    static let list = OptionTable(
        command: "list", options: [.toggle(["--json"], help: "write JSON") { $0.isJSON = true }])
}

extension Command {
    /// `platter list`.
    static let list: Command = {
        let synopsis = "list [--json]"
        let help = { @Sendable in
            helpText(
                synopsis, "Lists the mounts of platter: image, mountpoint, process, mode, and what keeps them busy.",
                options: OptionTable.list.helpText)
        }
        return Command(
            name: "list", synopsis: synopsis, summary: "list the mounts of platter", help: help
        ) { arguments throws(Failure) in
            try parsing(.list, ListSettings(), arguments, help: help) { settings, operands throws(Failure) in
                if let extra = operands.first { throw .usage("'\(extra)' is one argument too many", command: "list") }
                let mounts = try ListedMount.all()
                try Output.print(settings.isJSON ? ListedMount.json(mounts).text + "\n" : ListedMount.text(mounts))
                return .success
            }
        }
    }()
}

/// One mount as `platter list` shows it.
struct ListedMount: Sendable {
    var entry: MountEntry
    /// The server, where it is known.
    var pid: Int32?
    /// What keeps the mount busy.
    var users: [String]

    /// All mounts of platter that this process sees.
    static func all() throws(Failure) -> [ListedMount] {
        let entries = try MountTable.platter()
        let notes = RuntimeDirectory.entries()
        let servers = entries.map { entry in notes.first { $0.serves(entry) }?.pid }
        let users = MountUsers.of(entries.map(\.mountpoint), servers: servers)
        return entries.indices.map { ListedMount(entry: entries[$0], pid: servers[$0], users: users[$0]) }
    }

    private var mode: String { entry.has("rw") && !entry.has("ro") ? "rw" : "ro" }

    /// For programs.
    static func json(_ mounts: [ListedMount]) -> JSONText {
        .array(
            mounts.map { mount in
                .object(
                    JSONText.name("image", mount.entry.source) + JSONText.name("mountpoint", mount.entry.mountpoint) + [
                        ("pid", mount.pid.map { .number(UInt64($0)) } ?? .null), ("mode", .string(mount.mode)),
                        ("users", .array(mount.users.map { .string($0) })),
                    ])
            })
    }

    /// For people; nothing at all when there is no mount.
    static func text(_ mounts: [ListedMount]) -> String {
        guard !mounts.isEmpty else { return "" }
        let rows = mounts.map { mount in
            [
                Printable.line(String(decoding: mount.entry.source, as: UTF8.self)),
                Printable.line(String(decoding: mount.entry.mountpoint, as: UTF8.self)),
                mount.pid.map { "\($0)" } ?? "-", mount.mode,
                mount.users.isEmpty ? "-" : Printable.line(mount.users.joined(separator: ", ")),
            ]
        }
        return Table.text([["IMAGE", "MOUNTPOINT", "PID", "MODE", "USED BY"]] + rows)
    }
}
