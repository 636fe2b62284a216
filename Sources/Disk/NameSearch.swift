internal import Formats
internal import Storage

/// Looks for names that differ from recorded ones in case or Unicode normalisation only, or that lie in another directory
/// below the allowed ones: the names of Windows and of macOS do not tell either apart, and sets of images are moved.
///
/// Only names are read here; what is found is opened through the gate like everything else. The work is bounded: all
/// searches for one disk share what may be read.
struct NameSearch {
    /// Names in directories that may still be read for one disk.
    static let budget = 1_000_000

    /// At so many paths a search ends.
    private static let mostPaths = 8
    /// Directories below the allowed ones that are looked into, and how deep.
    private static let mostDirectories = 256
    private static let deepest = 4

    private let gate: OpenGate
    private var remaining: Int
    /// The names of interest, as `folded` has them: a directory of 100,000 files need not be kept.
    private let wanted: Set<String>
    /// What was of interest in a directory.
    private var known: [String: [String: [String]]] = [:]

    /// A search for the components of `paths`; `remaining` names may be read.
    init(_ gate: OpenGate, for paths: [String], remaining: Int) {
        self.gate = gate
        self.remaining = remaining
        wanted = Set(paths.flatMap { $0.split(separator: "/").map { Self.folded(String($0)) } })
    }

    /// How many names may still be read.
    var rest: Int { remaining }

    /// The name as names are compared: two strings that are canonically equivalent are equal anyway.
    static func folded(_ name: String) -> String { name.lowercased() }

    // MARK: - The same path, written differently

    /// Every file that `path` (absolute, normalised) could mean below the allowed directories, case aside.
    mutating func paths(like path: String) -> [String] {
        var found: [String] = []
        for place in gate.places(of: path) {
            var folders = [""]
            for part in place.relative.split(separator: "/") {
                var next: [String] = []
                for folder in folders {
                    let names = names(in: OpenGate.Place(root: place.root, relative: folder))
                    for name in names[Self.folded(String(part))] ?? [] {
                        next.append(folder.isEmpty ? name : "\(folder)/\(name)")
                    }
                }
                folders = Array(next.prefix(Self.mostPaths))
            }
            found += folders.map { PathText.join(gate.path(ofRoot: place.root), $0) }
        }
        return Array(found.prefix(Self.mostPaths))
    }

    /// The names of interest in a directory, by their folded form.
    private mutating func names(in folder: OpenGate.Place) -> [String: [String]] {
        let key = "\(folder.root)/\(folder.relative)"
        if let names = known[key] { return names }
        var names: [String: [String]] = [:]
        let wanted = wanted
        let count = gate.visitNames(folder, limit: remaining) { name, _ in
            let folded = Self.folded(name)
            if wanted.contains(folded) { names[folded, default: []].append(name) }
        }
        remaining -= count
        known[key] = names
        return names
    }

    // MARK: - The same name elsewhere

    /// At most three files below the allowed directories that are called like one of `names`, case aside, and are not
    /// among `tried`: for a message.
    mutating func files(called names: [String], except tried: [String]) -> [String] {
        let wanted = Set(names.map(Self.folded))
        let tried = Set(tried.map { Array($0.utf8) })
        var found: [String] = []
        var queue = (0..<gate.rootCount).map { (place: OpenGate.Place(root: $0, relative: ""), depth: 0) }
        var index = 0
        while index < queue.count, index < Self.mostDirectories, remaining > 0, found.count < 3 {
            let (place, depth) = queue[index]
            index += 1
            let count = gate.visitNames(place, limit: remaining, staysOnFilesystem: true) { name, isFolder in
                let relative = place.relative.isEmpty ? name : "\(place.relative)/\(name)"
                if isFolder {
                    if depth < Self.deepest, queue.count < Self.mostDirectories {
                        queue.append((OpenGate.Place(root: place.root, relative: relative), depth + 1))
                    }
                } else if wanted.contains(Self.folded(name)) {
                    let path = PathText.join(gate.path(ofRoot: place.root), relative)
                    if !tried.contains(Array(path.utf8)), !found.contains(path) { found.append(path) }
                }
            }
            remaining -= count
        }
        return Array(found.prefix(3))
    }
}
