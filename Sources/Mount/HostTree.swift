internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// A directory of images as a mount: what all its directories share.
final class HostTree: Sendable {
    /// A reference that does not keep an image alive.
    private struct WeakImage {
        weak var image: ImageFile?
    }

    private struct Images {
        var known: [FileIdentity: WeakImage] = [:]
        var purgeAt = 1024
    }

    let context: MountContext
    let classifier: Classifier
    let watcher: Watcher
    private let images = Mutex(Images())

    init(_ context: MountContext) {
        self.context = context
        classifier = Classifier(context.options.disk)
        watcher = Watcher(context)
    }

    /// The one object for the image with these facts, whichever name it was met under.
    func image(at place: HostPlace, _ facts: HostFacts, _ peek: ImageFile.Peek) -> ImageFile {
        images.withLock { images in
            if let image = images.known[facts.identity]?.image { return image }
            let (context, classifier) = (context, classifier)
            let image = ImageFile(
                context: context, source: .found(place, classifier), facts: facts, peek: peek)
            if images.known.count >= images.purgeAt {
                images.known = images.known.filter { $0.value.image != nil }
                images.purgeAt = max(1024, 2 * images.known.count)
            }
            images.known[facts.identity] = WeakImage(image: image)
            return image
        }
    }

    /// How many files are looked at before a directory counts as one that may have images.
    private static let searchLimit = 20_000

    /// Whether there is an image at or below `place`; true also when the search becomes long. Throws what listing the
    /// first directory throws.
    func hasImage(at place: HostPlace) throws(ImageError) -> Bool {
        var waiting = [place]
        var seen = 0
        while let next = waiting.popLast() {
            let names: [HostListing.Item]
            do throws(ImageError) { names = try HostListing.items(of: next).items } catch {
                if seen == 0 { throw error }
                continue
            }
            for item in names {
                seen += 1
                if seen > Self.searchLimit { return true }
                switch HostListing.look(at: next.appending(item.name), classifier) {
                case .directory(let place, _): waiting.append(place)
                case .image: return true
                case nil: continue
                }
            }
        }
        return false
    }
}

/// Reading host directories.
enum HostListing {
    /// One name as readdir(3) gives it.
    struct Item {
        var name: Name
    }

    /// What a name of the host is in the mount.
    enum Found {
        case directory(HostPlace, HostFacts)
        case image(HostPlace, HostFacts, ImageFile.Peek, isLink: Bool)
    }

    /// The names in the directory at `place` without "." and "..", and its facts. Throws like `HostPlace.open`.
    static func items(of place: HostPlace) throws(ImageError) -> (items: [Item], facts: HostFacts) {
        let descriptor = try place.open(O_RDONLY | O_DIRECTORY)
        guard let stream = fdopendir(descriptor) else {
            let code = errno
            close(descriptor)
            throw ImageError(.io, "cannot read the directory", errno: code, file: place.text)
        }
        defer { closedir(stream) }
        let facts = try HostPlace.facts(of: descriptor, place.text)
        var result: [Item] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { Name($0.prefix { $0 != 0 }) }
            if name == [0x2E] || name == [0x2E, 0x2E] { continue }
            result.append(Item(name: name))
        }
        return (result, facts)
    }

    /// What the file or directory at `place` is in the mount; nil for what is not shown. Links to directories are not
    /// shown: a tree with links has no end.
    static func look(at place: HostPlace, _ classifier: Classifier) -> Found? {
        do throws(ImageError) {
            var facts = try place.facts(following: false)
            let isLink = facts.mode & FileType.mask == FileType.link
            if isLink { facts = try place.facts() }
            switch facts.mode & FileType.mask {
            case FileType.directory: return isLink ? nil : .directory(place, facts)
            case FileType.regular:
                guard case .image(let peek) = classifier.verdict(of: place, facts) else { return nil }
                return .image(place, facts, peek, isLink: isLink)
            default: return nil
            }
        } catch { return nil }
    }
}
