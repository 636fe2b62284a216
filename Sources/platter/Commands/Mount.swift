extension Command {
    private static let mountSynopsis = """
        [mount] [OPTIONS] SOURCE MOUNTPOINT [-o OPTION[,OPTION...]]
        """

    private static let mountHelpText = { @Sendable in
        helpText(
            mountSynopsis,
            """
            Serves an image, or every image below a directory, as flat raw files. A directory as MOUNTPOINT gets
            IMAGE.raw; a regular file as MOUNTPOINT becomes the disk itself. Nothing changes an image.
            """,
            options: OptionTable.mount.helpText)
    }

    /// `platter mount`.
    static let mount = Command(
        name: "mount", synopsis: mountSynopsis, summary: "serve an image or a directory of images (the default)",
        help: mountHelpText
    ) { arguments throws(Failure) in
        try parsing(.mount, MountSettings(), arguments, help: mountHelpText, serve)
    }

    /// `mount.fuse.platter`, which mount(8) calls.
    static let mountHelper = Command(
        name: "mount.fuse.platter", synopsis: mountSynopsis, summary: "", help: mountHelpText
    ) { arguments throws(Failure) in
        try parsing(.mountHelper, MountSettings(isHelper: true), arguments, help: mountHelpText, serve)
    }

    private static func serve(_ settings: MountSettings, _ operands: [String]) throws(Failure) -> ExitStatus {
        try settings.validate()
        throw Failure(.usage, "not there")
    }
}

extension OptionTable where Settings == MountSettings {
    /// The options of a mount helper: mount(8)'s own letters mean other things than platter's.
    static let mountHelper: OptionTable = {
        var table = OptionTable.mount
        let letters: [Option<MountSettings>] = [
            .toggle(["-s"], help: nil) { $0.isSloppy = true },
            .toggle(["-f"], help: nil) { $0.isFake = true },
            .toggle(["-n"], help: nil) { _ in },
            .toggle(["-v"], help: nil) { _ in },
            .toggle(["-r"], help: nil) { $0.saysReadOnly = true },
            .toggle(["-w"], help: nil) { $0.saysReadWrite = true },
            Option(["-N"], value: "", help: nil) { _, _, _ in },
            Option(["-t"], value: "", help: nil) { _, _, _ in },
        ]
        table.options = letters + table.options
        return table
    }()
}
