internal import CLinux
internal import Glibc
internal import Synchronization

/// The threads of a mount: workers that answer requests, one that tells the kernel what to forget, and one that looks
/// after idle images and changed directories.
final class ServingThreads {
    /// What one thread does; carried through pthread_create as a retained pointer.
    private final class Job: Sendable {
        let body: @Sendable () -> Void

        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }

    private let session: SessionHandle
    private let context: MountContext
    private let watcher: Watcher?
    private let table: NodeTable
    private var workers: [pthread_t] = []
    private var others: [pthread_t] = []

    init(session: SessionHandle, context: MountContext, watcher: Watcher?, table: NodeTable) {
        self.session = session
        self.context = context
        self.watcher = watcher
        self.table = table
    }

    /// Starts `count` workers and the others. False when fewer than two workers (one, where one was
    /// wanted) or what writing needs could be started.
    func start(count: Int) -> Bool {
        let (session, context) = (session, context)
        let writes: Int32 = context.options.isWritable ? 1 : 0
        for _ in 0..<count {
            guard
                let thread = run(
                    "platter-serve",
                    {
                        clinux_fuse_serve(session.pointer, writes); clinux_fuse_thread_done()
                    })
            else { break }
            workers.append(thread)
        }
        if let thread = run("platter-notify", { context.invalidations.run(session) }) { others.append(thread) }
        if let watcher {
            let table = table
            if let thread = run("platter-watch", { watcher.run(table) }) { others.append(thread) }
        }
        return workers.count >= min(count, 2) && (writes == 0 || startForWriting(workers: workers.count))
    }

    /// Starts what only a writable mount needs: fewer threads that wait for the kernel than it has to answer it, and the
    /// one that commits. False when one of them could not be started.
    private func startForWriting(workers: Int) -> Bool {
        let (session, context) = (session, context)
        for _ in 0..<min(4, max(1, workers - 1)) {
            guard let thread = run("platter-aside", { context.aside.run(session) }) else { return false }
            others.append(thread)
        }
        guard let keeper = run("platter-commit", { context.keeper.run() }) else { return false }
        others.append(keeper)
        guard let thread = run("platter-writeback", { context.writeback.run(session) }) else { return false }
        others.append(thread)
        return true
    }

    /// Waits until the connection has ended and every thread with it.
    func join() {
        for thread in workers { pthread_join(thread, nil) }
        context.invalidations.end()
        watcher?.end()
        context.aside.end()
        context.keeper.end()
        context.writeback.end()
        for thread in others { pthread_join(thread, nil) }
        clinux_fuse_thread_done()
    }

    private func run(_ name: String, _ body: @escaping @Sendable () -> Void) -> pthread_t? {
        var thread = pthread_t()
        let job = Unmanaged.passRetained(Job(body))
        let code = clinux_thread_start(&thread, name, runJob, job.toOpaque())
        guard code == 0 else {
            job.release()
            return nil
        }
        return thread
    }

    fileprivate static func perform(_ argument: UnsafeMutableRawPointer) {
        Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().body()
    }
}

private func runJob(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument { ServingThreads.perform(argument) }
    return nil
}
