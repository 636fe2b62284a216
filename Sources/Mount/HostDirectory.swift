internal import Glibc
internal import Logging
internal import Storage
internal import Synchronization

/// A directory of the host in the mount: its images, under names that end with ".raw", and its subdirectories.
final class HostDirectory: DirectoryContent {
    let key: NodeKey
    private let tree: HostTree
    private let identity: FileIdentity
    private let place: Mutex<HostPlace>
    /// The number of the inotify watch, or -1.
    private let watch = Atomic<Int32>(-1)
    /// The names that the kernel may keep, for forgetting them all.
    private let told = Mutex<Set<Name>>([])

    init(_ tree: HostTree, _ place: HostPlace, _ facts: HostFacts, key: NodeKey) {
        self.tree = tree
        self.key = key
        identity = facts.identity
        self.place = Mutex(place)
    }

    deinit { tree.watcher.remove(watch.load(ordering: .relaxed)) }

    /// How long names and attributes last under a working watch, and without one.
    private static let (watched, unwatched) = (3600.0, 1.0)

    var timeout: Double { watch.load(ordering: .relaxed) >= 0 ? Self.watched : Self.unwatched }

    func noticed(at place: HostPlace) { self.place.withLock { $0 = place } }

    /// The watch has ended: what the kernel keeps is no longer reliable for long.
    func watchEnded() { watch.store(-1, ordering: .relaxed) }

    func attributes() throws(ImageError) -> FileAttributes {
        let facts = try place.withLock { $0 }.facts(following: false)
        guard facts.identity == identity else { throw Self.replaced }
        return tree.context.directoryAttributes(facts)
    }

    private static var replaced: ImageError {
        ImageError(.missing, "another directory has taken its place", errno: ESTALE)
    }

    func entries() throws(ImageError) -> [Entry] {
        let place = place.withLock { $0 }
        startWatch(place)
        let (items, facts) = try HostListing.items(of: place)
        guard facts.identity == identity else { throw Self.replaced }
        let found = items.filter { !isControl($0.name) }.compactMap { item in
            HostListing.look(at: place.appending(item.name), tree).map { (name: item.name, found: $0) }
        }
        // Names that images and directories have on the host come first; a name that is made gives way to them.
        let taken = Set(found.map(\.name))
        var result: [Entry] = []
        for (name, found) in found {
            switch found {
            case .directory(let place, let facts): result.append(entry(name, directory: place, facts))
            case .image(let place, let facts, let peek, let isLink):
                let exposed = exposedName(of: name) { taken.contains($0) }
                result.append(entry(exposed, image: place, facts, peek, isLink: isLink))
                result += views(name, place, facts, peek).filter { !taken.contains($0.name) }
            case .refused(let place, let facts, let refusal):
                result.append(entry(exposedName(of: name) { taken.contains($0) }, refused: place, facts, refusal))
            }
        }
        if key == .root { result.append(ControlDirectory.entry(tree.context)) }
        told.withLock { $0.formUnion(result.map(\.name)) }
        return result
    }

    func entry(named name: Name) throws(ImageError) -> Entry? {
        if isControl(name) { return ControlDirectory.entry(tree.context) }
        let place = place.withLock { $0 }
        startWatch(place)
        guard let result = find(name, in: place) else { return nil }
        told.withLock { _ = $0.insert(name) }
        return result
    }

    private func isControl(_ name: Name) -> Bool { key == .root && name == ControlDirectory.name }

    /// What `name` stands for: a host name wins over a made one.
    private func find(_ name: Name, in place: HostPlace) -> Entry? {
        let found = HostListing.look(at: place.appending(name), tree)
        if case .directory(let place, let facts) = found { return entry(name, directory: place, facts) }
        if ExposedName.of(name) == name, let entry = found.flatMap({ entry(name, file: $0) }) { return entry }
        for origin in ExposedName.origins(of: name) where origin != name {
            guard let entry = HostListing.look(at: place.appending(origin), tree).flatMap({ entry(name, file: $0) }),
                exposedName(of: origin, isTaken: { isTaken($0, in: place) }) == name
            else { continue }
            return entry
        }
        return findView(name, in: place)
    }

    /// Returns what is shown as a file called `name`; nil for a directory.
    private func entry(_ name: Name, file found: HostListing.Found) -> Entry? {
        switch found {
        case .directory: nil
        case .image(let place, let facts, let peek, let isLink):
            entry(name, image: place, facts, peek, isLink: isLink)
        case .refused(let place, let facts, let refusal): entry(name, refused: place, facts, refusal)
        }
    }

    private func entry(
        _ name: Name, refused place: HostPlace, _ facts: HostFacts, _ refusal: HostLinks.Refusal
    ) -> Entry {
        let context = tree.context
        let error = tree.refuse(place, facts, refusal)
        return Entry(name, .host(facts.identity), isDirectory: false, timeout: Self.unwatched) {
            .file(RefusedLink(context, facts, error))
        }
    }

    private func findView(_ name: Name, in place: HostPlace) -> Entry? {
        for kind in ViewKind.allCases where kind.isWanted(tree.context.options) {
            let ending = kind.directoryName([])
            guard name.count > ending.count, name.suffix(ending.count) == ending[...] else { continue }
            let origin = Name(name.dropLast(ending.count))
            guard
                case .image(let child, let facts, let peek, _) = HostListing.look(
                    at: place.appending(origin), tree)
            else { continue }
            return views(origin, child, facts, peek).first { $0.name == name }
        }
        return nil
    }

    private func isTaken(_ name: Name, in place: HostPlace) -> Bool {
        HostListing.look(at: place.appending(name), tree) != nil
    }

    /// The name in the mount of the image `name`: where the usual one belongs to a neighbour, a ".1" follows.
    private func exposedName(of name: Name, isTaken: (Name) -> Bool) -> Name {
        let usual = ExposedName.of(name)
        guard usual != name, isTaken(usual) else { return usual }
        let other = ExposedName.yielding(usual)
        tree.context.log.debug("\(String(decoding: usual, as: UTF8.self)) exists; the image beside it ends with .1")
        return other
    }

    private func entry(_ name: Name, directory place: HostPlace, _ facts: HostFacts) -> Entry {
        let tree = tree
        let key = NodeKey.host(facts.identity)
        return Entry(name, key, isDirectory: true, place: place) {
            .directory(HostDirectory(tree, place, facts, key: key))
        }
    }

    private func entry(
        _ name: Name, image place: HostPlace, _ facts: HostFacts, _ peek: ImageFile.Peek, isLink: Bool
    ) -> Entry {
        let tree = tree
        // What a link leads to may change in a directory that nobody watches.
        return Entry(
            name, .host(facts.identity), isDirectory: false, place: place, timeout: isLink ? Self.unwatched : nil
        ) { .file(tree.image(at: place, facts, peek)) }
    }

    private func views(
        _ name: Name, _ place: HostPlace, _ facts: HostFacts, _ peek: ImageFile.Peek
    ) -> [Entry] {
        guard case .success = peek else { return [] }
        let tree = tree
        return ViewKind.allCases.filter { $0.isWanted(tree.context.options) }.map { kind in
            ViewKind.entry(
                of: { tree.image(at: place, facts, peek) }, key: .host(facts.identity), kind, stem: name)
        }.filter { $0.name.count <= ExposedName.longest }
    }

    /// Watches the directory before the first look, so that no change falls between the two.
    private func startWatch(_ place: HostPlace) {
        guard watch.load(ordering: .relaxed) < 0 else { return }
        watch.store(tree.watcher.add(self, at: place), ordering: .relaxed)
    }

    /// What the kernel must forget when the host's `name` has changed.
    func forgetting(_ name: Name, _ table: NodeTable) -> [Invalidation] {
        guard let id = table.number(of: key), !isOurDoing(name, table) else { return [] }
        let usual = ExposedName.of(name)
        let kinds = ViewKind.allCases.filter { $0.isWanted(tree.context.options) }
        let names = [name, usual, ExposedName.yielding(usual)] + kinds.map { $0.directoryName(name) }
        // Once the kernel has forgotten a name it is told no more.
        let known = told.withLock { told in names.filter { told.remove($0) != nil } }
        var result = known.map { Invalidation.entry(parent: id, name: $0) } + [.node(id)]
        let child = place.withLock { $0 }.appending(name)
        if let facts = try? child.facts(), let number = table.number(of: .host(facts.identity)) {
            result.append(.node(number))
        }
        return result
    }

    /// Whether the file is an image that we have open for writing: nobody else changes it, and the kernel has been told.
    private func isOurDoing(_ name: Name, _ table: NodeTable) -> Bool {
        guard tree.context.options.isWritable else { return false }
        let child = place.withLock { $0 }.appending(name)
        guard let facts = try? child.facts(), let number = table.number(of: .host(facts.identity)),
            case .file(let file)? = table.node(number)?.content, let image = file as? ImageFile
        else { return false }
        return image.writableDisk != nil
    }

    /// What the kernel must forget when anything may have changed.
    func forgettingAll(_ table: NodeTable) -> [Invalidation] {
        guard let id = table.number(of: key) else { return [] }
        let names = told.withLock { told in
            defer { told = [] }
            return told
        }
        return names.map { .entry(parent: id, name: $0) } + [.node(id)]
    }
}
