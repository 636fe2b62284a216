internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
package import Storage
internal import Synchronization

/// One mount from its making to its end.
///
/// `init` opens the image and looks at the mountpoint, so that their errors come before anything is mounted; `mount()`
/// mounts; `serve(onReady:)` answers requests until the last user is gone. `detach()`, `abort()` and `rescan()` may be
/// called from any other thread meanwhile.
package final class MountSession: Sendable {
    package let options: MountOptions
    let context: MountContext
    let system: FileSystem
    let tree: MountTree
    private let mounted = Mutex<Mounted?>(nil)

    /// What is known once the mount exists.
    struct Mounted: Sendable {
        var session: SessionHandle
        /// st_dev of the mount.
        var device: UInt64
        /// The socket of the unmount helper, or -1.
        var helper: Int32
        /// Its process number.
        var helperProcess: pid_t
        /// Where a byte ends the connection, or -1.
        var abort: Int32
    }

    /// Opens the image (image mode) or the directory, and checks the mountpoint. Throws what opening throws, and
    /// `.missing`, `.denied`, `.busy` or `.unsupported` about the mountpoint.
    package init(_ options: MountOptions) throws(ImageError) {
        var options = options
        options.disk.isWritable = options.isWritable
        self.options = options
        let mountpoint = try Mountpoint(options)
        context = MountContext(options)
        tree = try MountTree(context, onFile: mountpoint.isFile)
        system = FileSystem(context: context, root: tree.root)
    }

    /// The paths of the disks in the mount (image mode); empty in directory mode.
    package var exposedFiles: [String] { tree.exposedFiles }

    /// Mounts, and starts the helper that can unmount. Call from the first thread, before there are others. Throws `.io`,
    /// `.denied` or `.busy`.
    package func mount() throws(ImageError) {
        let session = try SessionMaker(options).make(system)
        var device: UInt64 = 0
        guard clinux_mount_device(options.mountpoint, &device) == 0 else {
            let code = errno
            clinux_fuse_session_unmount(session.pointer)
            throw ImageError(.io, "cannot look at the new mount", errno: code, file: options.mountpoint)
        }
        var pid: pid_t = 0
        let helper = clinux_helper_start(options.mountpoint, device, &pid)
        if helper < 0 { context.log.warning("no unmount helper: \(text(errno)); a signal cannot detach the mount") }
        let abort = clinux_abort_descriptor(device)
        if abort < 0 { context.log.debug("the connection cannot be aborted by number: \(text(errno))") }
        context.keeper.mounted(device)
        mounted.withLock {
            $0 = Mounted(session: session, device: device, helper: helper, helperProcess: pid, abort: abort)
        }
    }

    /// Answers requests until the last user of the mount is gone, and then ends what was written. `onReady` is called once
    /// the mount answers. Throws `.io` when the mount does not come to life; it has been unmounted then. Throws what the
    /// end of a writable session throws, after all are ended.
    package func serve(onReady: () -> Void) throws(ImageError) {
        guard let mounted = mounted.withLock({ $0 }) else {
            throw ImageError(.io, "the mount was not made", errno: EINVAL, file: options.mountpoint)
        }
        defer { finish(mounted) }
        while !system.isInitialised {
            guard clinux_fuse_serve_one(mounted.session.pointer) == 1 else {
                throw ImageError(
                    .io, "the kernel ended the connection at once", errno: ENODEV, file: options.mountpoint)
            }
        }
        raiseReadAhead(mounted.device)
        let shortage = options.isWritable ? MemoryPressure.prepare() : nil
        if options.restrict { Restriction(options, context.log).apply() }
        let threads = ServingThreads(
            session: mounted.session, context: context, watcher: tree.watcher, table: system.table)
        let started = threads.start(count: workerCount)
        do throws(ImageError) {
            guard started else { throw ImageError(.io, "cannot start threads", errno: EAGAIN) }
            try verify(mounted)
        } catch {
            detach()
            abort()
            threads.join()
            try? context.keeper.finishAll()
            throw error
        }
        onReady()
        // Not before: until then the log is the terminal of whoever mounts, to whom this is no news.
        if let shortage { context.log.notice("\(shortage)") }
        threads.join()
        try context.keeper.finishAll()
        if let failure = context.badEnd.withLock({ $0 }) { throw failure }
    }

    /// What came of asking a mount to end.
    package enum Ending: Sendable {
        /// It was done.
        case done
        /// The mount had ended before.
        case over
        /// It could not be done, and the mount is served on.
        case refused
    }

    /// Detaches the mount from its path, so that it ends when its last user goes. Says in the log why it fails; the mount
    /// is served on then. Commits nothing, here as in `abort`: the host's disk may hang, and the
    /// thread that takes signals must not. What was written is committed by the keeper and when the last user has gone.
    @discardableResult
    package func detach() -> Ending {
        guard let code = tell({ Self.ask($0, "d") }) else { return .over }
        guard code != 0 else {
            context.keeper.detached()
            return .done
        }
        let reason = code == EBUSY ? "something else is mounted over it" : text(code)
        context.log.error("\(options.mountpoint) cannot be detached: \(reason); it is served on")
        return .refused
    }

    /// Ends the connection at once: whoever still uses the mount gets errors.
    @discardableResult
    package func abort() -> Ending {
        let code = tell { mounted in
            mounted.abort >= 0 && write(mounted.abort, "1", 1) == 1 ? 0 : Self.ask(mounted, "f")
        }
        return code.map { $0 == 0 ? .done : .refused } ?? .over
    }

    /// Runs `body` on the mount while it is there, and returns what it says; nil after its end. Under the lock, which
    /// `finish` takes before it closes what `body` uses: the number of a closed descriptor may be another file's.
    private func tell(_ body: (Mounted) -> Int32) -> Int32? {
        mounted.withLock { mounted in mounted.map(body) }
    }

    private static func ask(_ mounted: Mounted, _ command: Unicode.Scalar) -> Int32 {
        guard mounted.helper >= 0 else { return EPIPE }
        return clinux_helper_ask(mounted.helper, CChar(bitPattern: UInt8(ascii: command)))
    }

    /// Looks at the source anew: the kernel forgets names and attributes.
    package func rescan() { tree.rescan(system.table) }

    /// How many workers there are: two for each processor, 2 to 8.
    private var workerCount: Int {
        let processors = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        // Two at least where something is written: one may wait for what only the other can answer.
        let fewest = options.isWritable ? 2 : 1
        return min(256, max(fewest, options.threads ?? min(8, max(2, 2 * processors))))
    }

    /// Sees that the mount answers a stat and is the one that was made.
    private func verify(_ mounted: Mounted) throws(ImageError) {
        var facts = clinux_file_facts()
        guard clinux_facts_at(AT_FDCWD, options.mountpoint, 1, &facts) == 0 else {
            throw ImageError(.io, "the mount does not answer", errno: errno, file: options.mountpoint)
        }
        guard facts.device == mounted.device else {
            throw ImageError(.io, "something else is mounted there now", errno: EBUSY, file: options.mountpoint)
        }
    }

    /// Raises the read-ahead where that is permitted; the kernel's own limit is 128 KiB.
    private func raiseReadAhead(_ device: UInt64) {
        let descriptor = clinux_readahead_descriptor(device)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        if write(descriptor, "512", 3) != 3 { context.log.debug("the read-ahead stays: \(text(errno))") }
    }

    private func finish(_ mounted: Mounted) {
        self.mounted.withLock { $0 = nil }
        if mounted.abort >= 0 { close(mounted.abort) }
        if mounted.helper >= 0 {
            close(mounted.helper)
            while waitpid(mounted.helperProcess, nil, 0) < 0, errno == EINTR {}
        }
        // Not fuse_session_unmount: a newer mount may be on the path by now.
        clinux_fuse_session_destroy(mounted.session.pointer)
    }

    private func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}
