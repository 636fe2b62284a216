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
        let synopsis = "list [--json] [MOUNTPOINT | IMAGE]"
        let help = { @Sendable in
            helpText(
                synopsis,
                """
                Lists the mounts of platter, or those that the operand names: image, mountpoint,
                process, mode (ro, rw, overlay), state (mounted; dead: its server has died;
                detached: not on its path any more, and still in use), and what uses them.
                """,
                options: OptionTable.list.helpText)
        }
        return Command(
            name: "list", synopsis: synopsis, summary: "list the mounts of platter", help: help
        ) { arguments throws(Failure) in
            try parsing(.list, ListSettings(), arguments, help: help) { settings, operands throws(Failure) in
                if operands.count > 1 { throw .usage("'\(operands[1])' is one argument too many", command: "list") }
                var mounts = try ListedMount.all()
                if let target = operands.first {
                    let names = MountNames(target)
                    mounts.removeAll { !names.match(mountpoint: $0.mountpoint) && !names.match(source: $0.image) }
                    if mounts.isEmpty { throw names.unknown(.system) }
                }
                try Output.print(settings.isJSON ? ListedMount.json(mounts).text + "\n" : ListedMount.text(mounts))
                if !settings.isJSON {
                    for advice in mounts.compactMap(\.advice) { Output.report(Failure(.success, advice)) }
                }
                return .success
            }
        }
    }()
}
