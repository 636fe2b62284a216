internal import Glibc
internal import Logging

extension Command {
    private static let mountSynopsis = """
        [mount] [OPTIONS] SOURCE MOUNTPOINT [-o OPTION[,OPTION...]]
        """

    private static let mountHelpText = { @Sendable in
        helpText(
            mountSynopsis,
            """
            Serves an image, or every image below a directory, as flat raw files. A directory as MOUNTPOINT gets
            IMAGE.raw; a regular file as MOUNTPOINT becomes the disk itself. Nothing changes an image unless -w
            is given.
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
        try settings.checkOutputs()
        let plan = try MountPlan(operands, settings)
        if settings.isFake { return .success }
        // A mount helper is started without PATH, and its user did not ask for a list.
        let isQuiet = settings.isHelper || getenv("PATH") == nil || plan.isDirectoryMode
        if settings.isForeground {
            return try serveHere(plan, settings, isQuiet: isQuiet)
        }
        do throws(Failure) {
            return try Daemon.start { descriptor in
                serveBehind(plan, settings, isQuiet: isQuiet, pipe: descriptor)
            }
        } catch {
            // A server that was killed half-way may have left a mount that nobody serves.
            _ = try? DeadMount.clear(at: plan.mountpoint)
            throw error
        }
    }

    /// Serves in the foreground until the mount ends.
    private static func serveHere(
        _ plan: MountPlan, _ settings: MountSettings, isQuiet: Bool
    ) throws(Failure) -> ExitStatus {
        let server = try Server(plan: plan, settings: settings)
        try server.run { files in
            if !isQuiet { Output.tell(list(files)) }
            announce(settings, server.log)
        }
        return .success
    }

    /// Serves in a child that nobody watches; `pipe` is where its parent waits.
    private static func serveBehind(
        _ plan: MountPlan, _ settings: MountSettings, isQuiet: Bool, pipe: Int32
    ) -> ExitStatus {
        var isReady = false
        do throws(Failure) {
            Daemon.closeInherited(keeping: [pipe, settings.readyDescriptor ?? pipe])
            // Notes and logs are for everybody to read, whatever the caller's shell says.
            umask(0o022)
            let server = try Server(plan: plan, settings: settings)
            let hasLog = settings.log != .automatic || server.sink.prepareSyslog()
            try server.run { files in
                isReady = true
                announce(settings, server.log)
                if !hasLog { server.log.notice("\(noSystemLog)") }
                _ = chdir("/")
                if settings.log == .automatic { server.sink.redirect(to: .syslog) }
                StandardStreams.detach(keepingErrors: settings.log == .standardError)
                // Who was interrupted while the server started does not expect a mount to appear behind them.
                if !ReadinessPipe.send(.success, isQuiet ? "" : list(files), to: pipe) { kill(getpid(), SIGTERM) }
            }
            return .success
        } catch {
            if isReady { return error.status }
            ReadinessPipe.send(error.status, error.message, to: pipe)
            return error.status
        }
    }

    private static let noSystemLog =
        "there is no system log here (/dev/log): errors from now on are lost; --log FILE would keep them"

    private static func list(_ files: [String]) -> String {
        files.map { Printable.line($0) + "\n" }.joined()
    }

    /// Tells whoever waits that the mount answers, and the log where that could not be told.
    private static func announce(_ settings: MountSettings, _ log: Logger) {
        ServiceManager.notify("READY=1", "MAINPID=\(getpid())", "STATUS=serving")
        guard let descriptor = settings.readyDescriptor else { return }
        if !Output.write("\n", to: descriptor) {
            let reason = HostPath.reason(errno)
            log.error("--ready-fd: descriptor \(descriptor) does not take the line that says so: \(reason)")
        }
        // A hole among the standard streams would be filled by the next file that is opened.
        if descriptor > STDERR_FILENO { close(descriptor) }
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
