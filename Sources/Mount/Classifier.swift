internal import Bytes
internal import Disk
internal import Formats
internal import Glibc
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
    private let options: DiskOptions
    private let known = Mutex<[FileIdentity: Known]>([:])

    init(_ options: DiskOptions) { self.options = options }

    /// What the regular file at `place` is.
    func verdict(of place: HostPlace, _ facts: HostFacts) -> Verdict {
        if let known = known.withLock({ $0[facts.identity] }), known.stamp == facts.stamp { return known.verdict }
        let verdict = look(at: place)
        known.withLock { known in
            if known.count >= Self.limit { known.removeAll() }
            known[facts.identity] = Known(stamp: facts.stamp, verdict: verdict)
        }
        return verdict
    }

    /// Learns everything anew.
    func forget() { known.withLock { $0.removeAll() } }

    private func look(at place: HostPlace) -> Verdict {
        do throws(ImageError) {
            let descriptor = try place.open(O_RDONLY | O_NONBLOCK | O_NOCTTY)
            let storage = try FileStorage(owning: descriptor, name: place.text)
            defer { storage.close() }
            let format: any ImageFormat.Type
            do throws(ImageError) { format = try self.format(of: storage) } catch {
                let isForeign = error.kind == .malformed || error.kind == .unsupported
                return isForeign && !isCalledImage(place) ? .somethingElse : .image(.failure(error.named(place.text)))
            }
            return .image(size(of: storage, format, place))
        } catch {
            // Not readable: only the name can tell.
            return isCalledImage(place) ? .image(.failure(error)) : .somethingElse
        }
    }

    private func format(of storage: FileStorage) throws(ImageError) -> any ImageFormat.Type {
        guard let name = options.format else { return try Registry.detect(storage) }
        guard let format = Registry.format(named: name) else {
            throw ImageError(.unsupported, "there is no such format", detail: name)
        }
        return format
    }

    private func size(
        of storage: FileStorage, _ format: any ImageFormat.Type, _ place: HostPlace
    ) -> ImageFile.Peek {
        do throws(ImageError) {
            return .success(try format.virtualSize(of: storage, options: options.formatOptions))
        } catch { return .failure(error.named(place.text)) }
    }

    /// Whether the name ends like that of an image of a known format: then damage is worth showing.
    func isCalledImage(_ place: HostPlace) -> Bool {
        guard let dot = place.path.lastIndex(of: UInt8(ascii: ".")) else { return false }
        let ending = String(decoding: place.path[(dot + 1)...], as: UTF8.self)
        return Registry.format(named: ending) != nil
    }
}
