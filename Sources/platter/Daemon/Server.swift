internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
internal import Mount
internal import Storage
internal import Synchronization

/// Serves one mount in this process, from opening the image to the last user's end.
struct Server {
    let plan: MountPlan
    let settings: MountSettings
    /// Where the log goes; a daemon's log leaves the terminal once the mount answers.
    let sink: LogSink
    let log: Logger

    /// Prepares to serve; the log starts on standard error unless the user named another place.
    init(plan: MountPlan, settings: MountSettings) throws(Failure) {
        self.plan = plan
        self.settings = settings
        sink = LogSink(.standardError)
        log = Log.make(sink, level: settings.isDebug ? .trace : .notice)
        switch settings.log {
        case .automatic, .standardError: break
        case .syslog: sink.redirect(to: .syslog)
        case .file(let path):
            let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
            guard descriptor >= 0 else {
                throw Failure(.system, "\(path): cannot log to it: \(HostPath.reason(errno))")
            }
            sink.redirect(to: .descriptor(descriptor))
        }
    }

    /// Mounts, serves, and returns when the mount has ended. `onReady` is called once it answers, with the paths of the
    /// disks in it. Throws when there is no mount, and when what was written last could not be saved.
    func run(onReady: @escaping ([String]) -> Void) throws(Failure) {
        // Every image in use takes a descriptor for each of its files.
        _ = clinux_raise_descriptor_limit()
        var options = try plan.options(settings, log: log)
        options.writablePaths = [RuntimeDirectory.prepared(), settings.pidFile.map(Self.directory)].compactMap { $0 }
        let notes = Notes(pidFile: settings.pidFile.map(HostPath.absolute))
        var failure: String?
        defer { notes.remove(failure: failure) }
        do throws(ImageError) {
            let overlay = try overlay(&options)
            let session = try MountSession(options)
            overlay?.opened()
            if settings.saysReadWrite, !settings.isWritable {
                log.notice("\(plan.source): served read-only; 'rw' does not make platter write, 'write' does")
            }
            // Before any thread, so that all of them have the signals blocked.
            SignalThread.block()
            notes.prepare()
            try session.mount()
            try session.serve {
                overlay?.keep()
                start(session)
                notes.write(place, log: log)
                onReady(session.exposedFiles)
            }
        } catch {
            let whole = describe(error)
            failure = whole.message
            throw whole
        }
        ServiceManager.notify("STOPPING=1", "STATUS=the mount has ended")
    }

    /// What the note in the runtime directory says of the mount.
    private var place: RuntimeEntry.Place {
        var overlay: [UInt8]?
        if case .file(let name)? = settings.overlay { overlay = Array(HostPath.absolute(name).utf8) }
        let mode = settings.overlay != nil ? "overlay" : settings.isWritable ? "rw" : "ro"
        return RuntimeEntry.Place(
            source: Array(plan.source.utf8), mountpoint: Array(plan.mountpoint.utf8), mode: mode, overlay: overlay)
    }

    /// The file that takes the writes where the user named one; `options` then open it.
    private func overlay(_ options: inout MountOptions) throws(ImageError) -> OverlayFile? {
        guard let wanted = settings.overlay else { return nil }
        let overlay = try OverlayFile(wanted, source: plan.source, options: options.disk)
        options.disk.overlay = overlay.path
        return overlay
    }

    /// Why there is no mount. Who wants to write to a damaged image is told what says more about it.
    private func describe(_ error: ImageError) -> Failure {
        var failure = Failure(.mount, error, path: plan.source)
        let isOwn = error.file.map { $0 == plan.source } ?? true
        if settings.isWritable, isOwn, error.kind == .corrupt, !failure.message.contains("platter check") {
            failure.message += "; see what 'platter check' says about it"
        }
        return failure
    }

    private static func directory(of path: String) -> String {
        let absolute = HostPath.absolute(path)
        guard let slash = absolute.lastIndex(of: "/"), slash != absolute.startIndex else { return "/" }
        return String(absolute[..<slash])
    }

    private func start(_ session: MountSession) {
        let (log, plan) = (log, plan)
        let stops = StopCounter()
        do throws(Failure) {
            try SignalThread.start(hangupStops: settings.isForeground && isatty(STDIN_FILENO) == 1) { request in
                switch request {
                case .stop: Self.stop(session, times: stops.next(), plan, log)
                case .rescan:
                    log.notice("\(plan.source): looking at it anew")
                    session.rescan()
                case .status: log.notice("\(plan.mountpoint): \(Self.status(plan))")
                }
            }
        } catch {
            log.error("\(error.message); signals will not be heard")
        }
    }

    /// The first time: detach, and serve whoever still uses the mount. After that: end the connection.
    private static func stop(_ session: MountSession, times: Int, _ plan: MountPlan, _ log: Logger) {
        guard times == 1 else {
            log.warning("\(plan.mountpoint): ending the connection; what still uses it gets errors")
            ServiceManager.notify("STOPPING=1", "STATUS=ending the connection")
            if session.abort() == .refused { log.error("\(plan.mountpoint): the connection could not be ended") }
            return
        }
        let users = MountUsers.of([Array(plan.mountpoint.utf8)])[0]
        guard session.detach() == .done else { return }
        // Others' processes cannot be seen any more without privileges; loop devices can.
        let last = users.isEmpty ? "its last user" : users.joined(separator: ", ")
        log.notice("\(plan.mountpoint): detached; serving until \(last) is done with it")
        ServiceManager.notify("STOPPING=1", "STATUS=serving until \(last) is done")
    }

    private static func status(_ plan: MountPlan) -> String {
        let users = MountUsers.of([Array(plan.mountpoint.utf8)])[0]
        let use = users.isEmpty ? "not in use" : "used by " + users.joined(separator: ", ")
        return "serving \(plan.source), \(use)"
    }
}

/// How often the server was asked to stop.
private final class StopCounter: Sendable {
    private let count = Atomic(0)

    /// 1 for the first time.
    func next() -> Int { count.add(1, ordering: .relaxed).newValue }
}
