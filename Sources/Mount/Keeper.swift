internal import CLinux
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// Sees to it that what was written gets committed though nobody asks: by a thread of its own that holds no lock.
final class Keeper: Sendable {
    private let pin: MountPin
    private let event = clinux_event_open()
    private let isEnding = Atomic<Bool>(false)
    private let images: @Sendable () -> [ImageFile]

    /// How often images with and without uncommitted changes are looked at, in milliseconds.
    private static let (busy, idle): (Int32, Int32) = (25, 1000)

    /// Looks after what `images` gives.
    init(_ options: MountOptions, images: @escaping @Sendable () -> [ImageFile]) {
        pin = MountPin(options)
        self.images = images
    }

    deinit { if event >= 0 { close(event) } }

    /// Learns which mount is to be kept busy while anything is uncommitted.
    func mounted(_ device: UInt64) { pin.mounted(device) }

    /// The mount has been detached from its path.
    func detached() { pin.detach() }

    /// Something has been changed and is about to be acknowledged. Almost always one load.
    func changed() {
        if pin.hold() { clinux_event_signal(event) }
    }

    /// Something has been committed: the mount may be unmounted when that was all.
    func committed() {
        pin.drop { [images] in images().contains { $0.isUncommitted } }
    }

    /// A commit is to begin now.
    func wake() { clinux_event_signal(event) }

    /// Commits every image and throws the first failure after all have been tried.
    func commitAll() throws(ImageError) {
        var failure: ImageError?
        for image in images() {
            do throws(ImageError) { try image.commit() } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    /// Looks after the images until `end()`; the body of the thread.
    func run() {
        while !isEnding.load(ordering: .relaxed) {
            let isBusy = images().contains { $0.isUncommitted }
            var wanted = pollfd(fd: event, events: Int16(POLLIN), revents: 0)
            _ = poll(&wanted, 1, isBusy ? Self.busy : Self.idle)
            clinux_event_clear(event)
            let now = ContinuousClock.now
            for image in images() {
                image.housekeep(at: now)
                image.closeWriterIfIdle(at: now)
            }
            committed()
        }
    }

    /// Lets `run` return.
    func end() {
        isEnding.store(true, ordering: .relaxed)
        clinux_event_signal(event)
    }

    /// Ends every writable session, the last thing that happens to the images. Throws the first failure after all have
    /// been tried; each has a line in the log.
    func finishAll() throws(ImageError) {
        var failure: ImageError?
        for image in images() {
            do throws(ImageError) { try image.finish() } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }
}
