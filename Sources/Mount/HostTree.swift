internal import Bytes
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
    let links: HostLinks
    private let images = Mutex(Images())

    /// The tree below `root`. Throws what opening the allowed directories throws.
    init(_ context: MountContext, _ root: HostRoot) throws(ImageError) {
        self.context = context
        links = try HostLinks(root, context.options)
        classifier = Classifier(context)
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

    /// The refused links that the log has named.
    private let told = Mutex<Set<FileIdentity>>([])
    /// So many links each get a line in the log.
    private static let plenty = 1000

    /// Says in the log, once for each link, why it is not followed. Returns the reason.
    func refuse(_ place: HostPlace, _ facts: HostFacts, _ refusal: HostLinks.Refusal) -> ImageError {
        let error = refusal.error(place, followsLinks: context.options.followsLinks)
        let isNews = told.withLock { $0.count < Self.plenty && $0.insert(facts.identity).inserted }
        if isNews { context.log.warning("\(error)") }
        return error
    }

    /// How many files are looked at before a directory counts as one that may have images.
    private static let searchLimit = 20_000

    /// Throws unless there is an image at or below `place`, or the search for one becomes long: what listing the first
    /// directory throws, or `.missing`, with what there is instead.
    func checkForImages(at place: HostPlace) throws(ImageError) {
        var waiting = [place]
        var seen = 0
        var passed = PassedLinks()
        while let next = waiting.popLast() {
            let names: [HostListing.Item]
            do throws(ImageError) { names = try HostListing.items(of: next).items } catch {
                if seen == 0 { throw error }
                continue
            }
            for item in names {
                seen += 1
                if seen > Self.searchLimit { return }
                let place = next.appending(item.name)
                switch HostListing.look(at: place, self) {
                case .directory(let place, _): waiting.append(place)
                case .image: return
                case .refused(_, _, let refusal):
                    // The user has named the directory for it; the log will say what is missing still.
                    if refusal.reason == .allowed { return }
                    passed.outside += 1
                case nil: passed.count(links.target(ofLinkAt: place))
                }
            }
        }
        throw passed.error(place.root.path)
    }
}

/// The links that a search for images has passed by.
private struct PassedLinks {
    /// Those that lead to files elsewhere, or nowhere.
    var outside = 0
    /// Those that lead to directories.
    var directories = 0

    mutating func count(_ target: HostLinks.Target?) {
        switch target {
        case .refused(_)?: outside += 1
        case .directory?: directories += 1
        case .file?, .other?, nil: break
        }
    }

    /// Returns what there is in place of an image.
    func error(_ path: String) -> ImageError {
        if outside > 0 {
            return ImageError(
                .missing,
                "no disk image in the directory or below it, but links that lead out of it: -o follow-links with --allow-parents DIR follows them",
                detail: outside.counted("link"), file: path)
        }
        guard directories > 0 else {
            return ImageError(.missing, "no disk image in the directory or below it", file: path)
        }
        return ImageError(
            .missing,
            "no disk image in the directory or below it, but links to directories, which are not followed: name one of those",
            detail: directories.counted("link"), file: path)
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
        /// A link with an image's name that is not followed, with its own facts.
        case refused(HostPlace, HostFacts, HostLinks.Refusal)
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
    static func look(at place: HostPlace, _ tree: HostTree) -> Found? {
        guard let facts = try? place.facts(following: false) else { return nil }
        switch facts.mode & FileType.mask {
        case FileType.directory: return .directory(place, facts)
        case FileType.regular: return image(at: place, facts, tree, isLink: false)
        case FileType.link: break
        default: return nil
        }
        switch tree.links.target(of: place) {
        case .file(let target, let facts): return image(at: target, facts, tree, isLink: true)
        case .refused(let refusal) where tree.classifier.isCalledImage(place): return .refused(place, facts, refusal)
        case .refused, .directory, .other: return nil
        }
    }

    private static func image(at place: HostPlace, _ facts: HostFacts, _ tree: HostTree, isLink: Bool) -> Found? {
        guard case .image(let peek) = tree.classifier.verdict(of: place, facts) else { return nil }
        return .image(place, facts, peek, isLink: isLink)
    }
}
