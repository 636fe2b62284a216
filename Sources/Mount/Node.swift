internal import Storage
internal import Synchronization

/// The bytes of a file name: Linux knows no encoding.
typealias Name = [UInt8]

/// What a node is, for recognising it when it is met again.
enum NodeKey: Hashable, Sendable {
    /// The root of the mount.
    case root
    /// A file or directory of the host.
    case host(FileIdentity)
    /// The disk of image mode.
    case image
    /// The directory of one kind of view of the image whose own key is given.
    indirect case views(ViewKind, of: NodeKey)
    /// One view in such a directory, by its name.
    indirect case view(Name, ViewKind, of: NodeKey)
    /// `.platter` and what is in it.
    case control(Name)
}

/// What a node shows.
enum Content: Sendable {
    case directory(any DirectoryContent)
    case file(any FileContent)
}

/// A directory of the mount.
protocol DirectoryContent: AnyObject, Sendable {
    /// Everything in it, without "." and "..". Throws `.missing` and `.io`.
    func entries() throws(ImageError) -> [Entry]
    /// The entry called `name`, or nil. Throws `.io`.
    func entry(named name: Name) throws(ImageError) -> Entry?
    /// What stat(2) shows, except for the inode number. Throws `.missing` and `.io`.
    func attributes() throws(ImageError) -> FileAttributes
    /// Learns where the host directory was met just now.
    func noticed(at place: HostPlace)
    /// How long names in it and its own attributes may be kept, in seconds.
    var timeout: Double { get }
}

extension DirectoryContent {
    func noticed(at place: HostPlace) {}
}

/// A file of the mount.
protocol FileContent: AnyObject, Sendable {
    /// What stat(2) shows, except for the inode number. Throws `.missing` and `.io`.
    func attributes() throws(ImageError) -> FileAttributes
    /// Opens it. Throws what opening the image throws, `.readOnly` for a writer of what is only read, and EPERM where
    /// O_TRUNC is refused.
    func open(_ mode: OpenMode) throws(ImageError) -> OpenFile
    /// Whether it may be opened for writing, as far as the mount is concerned.
    var isWritable: Bool { get }
    /// Learns where the host file was met just now.
    func noticed(at place: HostPlace)
    /// How long the attributes may be kept, in seconds.
    var timeout: Double { get }
}

extension FileContent {
    func noticed(at place: HostPlace) {}

    var isWritable: Bool { false }
}

/// One name in a directory, and how to make what it stands for if it is not known yet.
struct Entry: Sendable {
    let name: Name
    let key: NodeKey
    let isDirectory: Bool
    /// Where the host file behind it is, if it has one.
    let place: HostPlace?
    /// How long the name may be kept, in seconds; nil for what its directory says.
    let timeout: Double?
    let make: @Sendable () -> Content

    init(
        _ name: Name, _ key: NodeKey, isDirectory: Bool, place: HostPlace? = nil, timeout: Double? = nil,
        make: @escaping @Sendable () -> Content
    ) {
        self.name = name
        self.key = key
        self.isDirectory = isDirectory
        self.place = place
        self.timeout = timeout
        self.make = make
    }
}

/// A file or directory that the kernel knows by number.
final class Node: Sendable {
    /// The number; 1 is the root. Never given out twice.
    let id: UInt64
    let key: NodeKey
    let content: Content

    init(id: UInt64, key: NodeKey, content: Content) {
        self.id = id
        self.key = key
        self.content = content
    }

    /// What stat(2) shows. Throws `.missing` and `.io`.
    func attributes() throws(ImageError) -> FileAttributes {
        var result: FileAttributes
        switch content {
        case .directory(let directory): result = try directory.attributes()
        case .file(let file): result = try file.attributes()
        }
        result.inode = id
        return result
    }

    /// How long the attributes may be kept, in seconds.
    var timeout: Double {
        switch content {
        case .directory(let directory): directory.timeout
        case .file(let file): file.timeout
        }
    }
}

/// All nodes that the kernel holds, by number and by key, with the number of times it holds each.
///
/// A read never comes here: an open file is found through its handle.
final class NodeTable: Sendable {
    private struct Slot {
        let node: Node
        var lookups: UInt64
    }

    private struct State {
        var slots: [UInt64: Slot] = [:]
        var numbers: [NodeKey: UInt64] = [:]
        var next: UInt64 = 2
    }

    private let state = Mutex(State())
    let root: Node

    init(root: Content) {
        self.root = Node(id: 1, key: .root, content: root)
    }

    /// The node of number `id`, or nil when it has been forgotten.
    func node(_ id: UInt64) -> Node? {
        if id == 1 { return root }
        return state.withLock { $0.slots[id]?.node }
    }

    /// The number of the node with `key`, if the kernel holds it.
    func number(of key: NodeKey) -> UInt64? {
        if key == .root { return 1 }
        return state.withLock { $0.numbers[key] }
    }

    /// All nodes that the kernel holds, the root among them.
    func nodes() -> [Node] {
        [root] + state.withLock { $0.slots.values.map(\.node) }
    }

    /// The node that `entry` stands for, which the kernel now holds once more.
    func hold(_ entry: Entry) -> Node {
        let node = state.withLock { state in
            if let id = state.numbers[entry.key], let slot = state.slots[id] {
                state.slots[id]?.lookups += 1
                return slot.node
            }
            let node = Node(id: state.next, key: entry.key, content: entry.make())
            state.next += 1
            state.slots[node.id] = Slot(node: node, lookups: 1)
            state.numbers[entry.key] = node.id
            return node
        }
        if let place = entry.place {
            switch node.content {
            case .file(let file): file.noticed(at: place)
            case .directory(let directory): directory.noticed(at: place)
            }
        }
        return node
    }

    /// Takes back `count` holds of the kernel.
    func forget(_ id: UInt64, count: UInt64) {
        // The node ends outside the lock: it may own an open image.
        let gone = state.withLock { (state) -> Node? in
            guard let slot = state.slots[id] else { return nil }
            guard slot.lookups <= count else {
                state.slots[id]?.lookups -= count
                return nil
            }
            state.slots[id] = nil
            state.numbers[slot.node.key] = nil
            return slot.node
        }
        withExtendedLifetime(gone) {}
    }
}
