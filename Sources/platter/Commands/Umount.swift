internal import Glibc

/// The options of `umount`.
struct UmountSettings: Sendable {
    var isWaiting = false
    var isLazy = false
    /// Seconds; nil for the command's own choice.
    var timeout: Double?
}

extension OptionTable where Settings == UmountSettings {
    private static let own: [Option<UmountSettings>] = [
        .toggle(["--wait"], help: "also wait until the server has ended (60 s unless --timeout says)") {
            $0.isWaiting = true
        },
        .toggle(["--lazy", "-l"], help: "detach now; the mount ends with its last user") { $0.isLazy = true },
        Option(["--timeout"], value: "S", help: "how long to try while the mount is busy, in seconds (default 5)") {
            settings, value, name throws(Failure) in settings.timeout = try Values.seconds(value, name)
        },
    ]

    /// The options of `platter umount`.
    static let umount = OptionTable(command: "umount", options: own)

    /// What umount(8) tells a helper besides.
    static let umountHelper = OptionTable(
        command: "umount",
        options: own + ["-f", "-n", "-r", "-v", "-i"].map { .toggle([$0], help: nil) { _ in } } + [
            Option(["-N", "-t"], value: "", help: nil) { _, _, _ in },
            Option(keys: ["uhelper"], value: "", help: nil) { _, _, _ in },
        ],
        isSloppy: { _ in true })
}

extension Command {
    private static let umountSynopsis = "umount [--wait | --lazy] [--timeout S] MOUNTPOINT | IMAGE"

    private static let umountHelpText = { @Sendable in
        helpText(
            umountSynopsis,
            """
            Unmounts a mount of platter, named by its mountpoint or by what is mounted there. Where images can be
            written it saves what was written first, waits for the server's end, and fails if that was not saved.
            """,
            options: OptionTable.umount.helpText)
    }

    /// `platter umount`.
    static let umount = Command(
        name: "umount", synopsis: umountSynopsis, summary: "unmount, by mountpoint or image", help: umountHelpText
    ) { arguments throws(Failure) in
        try parsing(.umount, UmountSettings(), arguments, help: umountHelpText, unmount)
    }

    /// `umount.fuse.platter`, which umount(8) calls: it returns when the server has ended.
    static let umountHelper = Command(
        name: "umount.fuse.platter", synopsis: umountSynopsis, summary: "", help: umountHelpText
    ) { arguments throws(Failure) in
        try parsing(.umountHelper, UmountSettings(isWaiting: true), arguments, help: umountHelpText) {
            settings, operands throws(Failure) in
            var settings = settings
            if settings.isLazy { settings.isWaiting = false }
            return try unmount(settings, operands)
        }
    }

    private static func unmount(_ settings: UmountSettings, _ operands: [String]) throws(Failure) -> ExitStatus {
        guard let target = operands.first else {
            throw .usage("a mountpoint or an image is missing", command: "umount")
        }
        guard operands.count == 1 else {
            throw .usage("'\(operands[1])' is one argument too many", command: "umount")
        }
        guard !(settings.isWaiting && settings.isLazy) else {
            throw .usage("'--wait' and '--lazy' contradict each other; say one of them", command: "umount")
        }
        try Unmounter(entry: find(target), settings: settings).run()
        return .success
    }

    /// The mount that is meant. Throws where there is none, and says so where it has only left its path.
    private static func find(_ target: String) throws(Failure) -> MountEntry {
        let mounts = try MountTable.platter()
        let names = MountNames(target)
        if !mounts.contains(where: { names.match(mountpoint: $0.mountpoint) || names.match(source: $0.source) }) {
            let detached = try ListedMount.all().first { mount in
                mount.state == .detached
                    && (names.match(mountpoint: mount.mountpoint) || names.match(source: mount.image))
            }
            if let advice = detached?.advice { throw Failure(.mount, advice) }
        }
        return try Unmounter.find(target, in: mounts)
    }
}
