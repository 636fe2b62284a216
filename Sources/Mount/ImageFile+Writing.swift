internal import Bytes
internal import CLinux
internal import Disk
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

extension ImageFile {
    /// Whether the file may be opened for writing, as far as the mount is concerned.
    var isWritable: Bool { context.options.isWritable }

    /// The disk that is open, if it may be written.
    var writableDisk: Disk? {
        state.withLock { state in state.disk.flatMap { $0.isWritable ? $0 : nil } }
    }

    /// The image's key in the table of nodes: that of the whole disk.
    private var key: NodeKey {
        state.withLock { state in
            guard case .found = state.source else { return .image }
            return .host(state.facts.identity)
        }
    }

    /// Lets the kernel write back and drop its pages of `range` of the whole disk, and waits for it. For threads that
    /// answer no requests.
    func dropPages(_ range: ByteRange, _ session: SessionHandle) {
        guard let number = context.number(of: key), let start = off_t(exactly: range.lower),
            let count = off_t(exactly: range.length)
        else { return }
        clinux_fuse_notify_inode(session.pointer, number, start, count)
    }

    /// Brings the count of allocated bytes up to date where writing has changed it.
    func countAllocated() {
        let disk = state.withLock { state in state.allocated == nil && state.disk?.isWritable == true ? state.disk : nil
        }
        guard let disk, let allocated = try? disk.allocatedBytes() else { return }
        state.withLock { $0.allocated = allocated }
    }

    // MARK: - Opening

    /// How long a writer waits for those who read the image by a disk that cannot be written.
    private static let patience = 200
    /// Only one thread may wait: others have to serve the end of what it waits for.
    private static let waiter = Atomic<Bool>(false)

    /// Like `acquire`, for a writer. An image of a directory is opened for writing when its first writer comes: who only
    /// reads must not keep others from the image. Throws `.busy` while others read it, and what opening throws.
    func acquireForWriting() throws(ImageError) -> (disk: Disk, generation: UInt64) {
        let isWaiter = !Self.waiter.exchange(true, ordering: .relaxed)
        defer { if isWaiter { Self.waiter.store(false, ordering: .relaxed) } }
        // The last reader lets go of its disk, and with it of the locks, a moment after it no longer counts as a user.
        let hadReaders = state.withLock { $0.disk?.isWritable == false }
        // The kernel sends a RELEASE after close(2) has returned.
        for _ in 0..<(isWaiter ? Self.patience : 1) {
            do throws(ImageError) {
                let got = try opening.withLock { (_) throws(ImageError) in try currentForWriting() }
                if let got { return got }
            } catch {
                guard error.kind == .busy, hadReaders, isWaiter else { throw error }
            }
            usleep(5000)
        }
        throw ImageError(.busy, "others read the image; write when they are done", errno: EBUSY)
    }

    /// The writable disk, opened now if need be; nil while others use one that is not. Runs with `opening` held.
    private func currentForWriting() throws(ImageError) -> (disk: Disk, generation: UInt64)? {
        var known = state.withLock { $0 }
        if let disk = known.disk {
            if disk.isWritable { return (disk, take(disk, known.stamps)) }
            guard known.users == 0 else { return nil }
            // Its locks are in the way of a writer's; nobody can come to use it before this has returned.
            state.withLock { $0.disk = nil }
        }
        known.disk = nil
        return try open(known)
    }

    /// Opens the image for writing; what `known` still holds has no users.
    private func open(_ known: consuming State) throws(ImageError) -> (disk: Disk, generation: UInt64) {
        known.disk = nil
        let disk = try reopen(known, writing: true)
        writing.isBroken.store(false, ordering: .relaxed)
        return try takeNew(disk)
    }

    /// Says in the log why the image cannot be written. Returns what the writer sees; the image may still be read.
    func failedToWrite(_ error: ImageError) -> ImageError {
        if error.errno == ESTALE { return error }
        let named = error.named(name)
        context.log.error("\(named)")
        switch error.kind {
        case .readOnly, .denied:
            return ImageError(.readOnly, "the image cannot be written", errno: EROFS)
        case .busy: return ImageError(.busy, "the image is in use", errno: EBUSY)
        case .noSpace: return ImageError(.noSpace, "no room to write the image", errno: ENOSPC)
        default: return ImageError(.io, "the image cannot be opened for writing", errno: EIO)
        }
    }

    // MARK: - Committing

    /// Whether something that was acknowledged is not durable yet, and may still become so.
    var isUncommitted: Bool {
        guard !writing.isBroken.load(ordering: .relaxed), let disk = writableDisk else { return false }
        return disk.hasUncommittedChanges
    }

    /// Makes everything durable that was acknowledged before. Throws `.noSpace`, after which it may succeed later, and
    /// `.io`.
    func commit() throws(ImageError) {
        guard let disk = writableDisk else { return }
        try commit(disk)
        context.keeper.committed()
    }

    /// The same for a view of the image or the whole of it. The mount stays pinned until the keeper looks or a file is
    /// closed: a writer that asks for durability after each write would otherwise wake the keeper each time.
    func commit(_ disk: Disk) throws(ImageError) {
        do throws(ImageError) { try disk.flush() } catch {
            if error.kind != .noSpace { writing.isBroken.store(true, ordering: .relaxed) }
            throw error
        }
    }

    /// Commits if it is time. One thread calls this, a few times a second and when a writer has been released.
    func housekeep(at now: ContinuousClock.Instant) {
        guard let disk = writableDisk, !writing.isBroken.load(ordering: .relaxed) else { return }
        if let until = state.withLock({ $0.restsUntil }), now < until { return }
        do throws(ImageError) {
            if writing.isReleased.exchange(false, ordering: .relaxed), disk.hasUncommittedChanges {
                try disk.flush()
            }
            try disk.housekeep()
            if disk.wantsWriteback() { context.writeback.push { _ in disk.startWriteback() } }
            state.withLock { $0.restsUntil = nil }
        } catch { failedToCommit(error) }
    }

    /// Remembers the failure, which is in the log, for the next fsync of every open file, and lets some time go by.
    private func failedToCommit(_ error: ImageError) {
        // Where there was no room nothing is lost yet: the next fsync tries again, and says itself how that went.
        if error.kind != .noSpace {
            writing.isBroken.store(true, ordering: .relaxed)
            writing.lastFailure.store(error.errorNumberOfWriting, ordering: .relaxed)
            writing.failures.add(1, ordering: .releasing)
        }
        state.withLock { $0.restsUntil = .now + .seconds(2) }
    }

    // MARK: - The end

    /// Ends the writable session. Throws what `Disk.finish` throws, after a line in the log.
    func finish() throws(ImageError) {
        guard let disk = writableDisk else { return }
        do throws(ImageError) { try disk.finish() } catch {
            let named = error.named(name)
            context.log.error("\(named); the last changes may be lost")
            throw named
        }
    }

    /// Closes the image of a directory whose last user has gone a while ago, after its last commit.
    func closeWriterIfIdle(at now: ContinuousClock.Instant) {
        let isIdle = { (state: State) -> Bool in
            guard case .found = state.source, state.users == 0, state.disk?.isWritable == true,
                let since = state.idleSince
            else { return false }
            return now - since >= Self.grace && now >= state.restsUntil ?? now
        }
        guard state.withLock({ isIdle($0) }) else { return }
        opening.withLock { _ in
            // Whoever opens it now waits for `opening`.
            guard state.withLock({ isIdle($0) }) else { return }
            do throws(ImageError) { try finish() } catch {
                context.endedBadly(error)
                guard error.kind != .noSpace else {
                    return state.withLock { $0.restsUntil = .now + .seconds(10) }
                }
            }
            close()
        }
    }

    private func close() {
        let old = state.withLock { state -> Disk? in
            let old = state.disk
            state.disk = nil
            // What the kernel keeps of views is from before.
            state.generation += 1
            state.stamps = []
            context.closed(self)
            return old
        }
        withExtendedLifetime(old) {}
    }
}
