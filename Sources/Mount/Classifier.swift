internal import Bytes
internal import Disk
internal import Formats
internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// Says which files of a directory are images, and how large their disks are.
///
/// At most a header is read of a file, and only once for each change of it; nothing stays open.
final class Classifier: Sendable {
    /// What a file is.
    enum Verdict: Sendable {
        /// An image, with the size of its disk or what is wrong with it.
        case image(ImageFile.Peek)
        case somethingElse
    }

    private struct Known {
        var stamp: FileStamp
        var verdict: Verdict
    }

    /// Beyond this many files what is known is thrown away and learnt again.
    private static let limit = 200_000
    /// So many broken images each get a line in the log.
    private static let plenty = 100
    private let context: MountContext
    private var options: DiskOptions { context.options.disk }
    private let known = Mutex<[FileIdentity: Known]>([:])
    private let reported = Atomic(0)

    init(_ context: MountContext) { self.context = context }

    /// What the regular file at `place` is.
    func verdict(of place: HostPlace, _ facts: HostFacts) -> Verdict {
        if let known = known.withLock({ $0[facts.identity] }), known.stamp == facts.stamp { return known.verdict }
        let verdict = look(at: place)
        let isNews = known.withLock { known in
            if known.count >= Self.limit { known.removeAll() }
            let old = known.updateValue(Known(stamp: facts.stamp, verdict: verdict), forKey: facts.identity)
            return old?.stamp != facts.stamp
        }
        if isNews { tell(verdict, of: place, facts.identity) }
        return verdict
    }

    /// Learns everything anew.
    func forget() {
        known.withLock { $0.removeAll() }
        reported.store(0, ordering: .relaxed)
    }

    /// Names a broken image in the log, so that nobody has to open it to learn what is wrong with it.
    private func tell(_ verdict: Verdict, of place: HostPlace, _ identity: FileIdentity) {
        guard case .image(.failure(let error)) = verdict else { return context.broken.remove(identity) }
        context.broken.add(identity, place.text, error, at: place)
        switch reported.add(1, ordering: .relaxed).newValue {
        case ...Self.plenty: context.log.error("\(error)")
        case Self.plenty + 1: context.log.error("\(place.text): broken too, and so may be more that are not named here")
        default: break
        }
    }

    private func look(at place: HostPlace) -> Verdict {
        do throws(ImageError) {
            let descriptor = try place.open(O_RDONLY | O_NONBLOCK | O_NOCTTY)
            let storage = try FileStorage(owning: descriptor, name: place.text)
            defer { storage.close() }
            let format: any ImageFormat.Type
            do throws(ImageError) {
                var options = options
                options.formatOption = .member(called: place.path)
                format = try options.format(ofImage: storage, name: place.path)
            } catch {
                let isForeign = error.kind == .malformed || error.kind == .unsupported
                var isShown = !isForeign || isCalledImage(place)
                // What looks like two formats at once is an image, whatever it is called.
                if !isShown { isShown = try !Registry.formats(of: storage).isEmpty }
                return isShown ? .image(.failure(error.named(place.text))) : .somethingElse
            }
            return .image(size(of: storage, format, place))
        } catch {
            // Not readable: only the name can tell.
            return isCalledImage(place) ? .image(.failure(error.named(place.text))) : .somethingElse
        }
    }

    private func size(
        of storage: FileStorage, _ format: any ImageFormat.Type, _ place: HostPlace
    ) -> ImageFile.Peek {
        do throws(ImageError) {
            return .success(try format.virtualSize(of: storage, options: options.formatOptions))
        } catch { return .failure(error.named(place.text)) }
    }

    /// Whether the name ends like that of an image of a known format: then damage is worth showing.
    func isCalledImage(_ place: HostPlace) -> Bool { Registry.isImageName(place.path) }
}
