internal import Formats
internal import Storage

/// The rules of trust (DESIGN.md, "Trust"): opens what an image names, if it may be opened.
///
/// A file may be opened when it lies in the directory of the image that the user named, or below one of the directories
/// that the user allowed. The name is first made absolute as text; the open itself is confined by the kernel to the
/// directory that contains it, so that no symbolic link leads out of it.
struct OpenGate: Sendable {
    /// A directory below which files may be opened, under each of the names that lead to it.
    private struct Root: Sendable {
        var directory: Directory
        var spellings: [String]
        /// Whether block devices may be opened too.
        var admitsDevices: Bool
    }

    /// A path as a directory that allows it has it.
    struct Place: Sendable {
        /// The directory's number among those of the gate.
        var root: Int
        /// The path below it.
        var relative: String
    }

    /// Why a name was not opened.
    struct Refusal: Error {
        /// What it was, worst last: the report is about the worst one.
        enum Reason: Int {
            case missing, outside, unrelated, unusable
        }

        var reason: Reason
        var error: ImageError
    }

    private static let longestName = 4096

    private var roots: [Root] = []
    /// The directories of the image that the user named, by its path, where somebody else has found them.
    private var found: (path: String, directories: [String])?

    /// A gate for what the image at `path` names; `allowed` are further directories. Throws what opening one of them
    /// throws: leaving it out would only show later, as a parent that is refused.
    /// The directories of an image that has been `found` are those that its finder says, by paths without links.
    init(image path: String, found: DiskOptions.Found? = nil, allowed: [String]) throws(ImageError) {
        self.found = found.map { (path, $0.directories) }
        for directory in found?.directories ?? Self.directories(of: path) {
            try admit(directory, withoutLinks: found != nil)
        }
        for directory in allowed { try admit(directory, isUsersWord: true) }
    }

    /// Admits files below `directory` too, and block devices where the user named it and it is `/dev` or lies in it; with
    /// `withoutLinks` there must be no symbolic link in its path. Throws `.missing`, `.denied` or `.io`, naming it.
    mutating func admit(_ directory: String, isUsersWord: Bool = false, withoutLinks: Bool = false) throws(ImageError) {
        let opened = try Directory(path: directory, withoutLinks: withoutLinks)
        var spellings = [opened.path]
        // Taking `..` out of a path as text is right only where no symbolic link stands before it.
        let typed = PathText.join(HostPath.absolute(directory), "")
        if typed != opened.path, HostPath.real(typed) == opened.path { spellings.append(typed) }
        let isForDevices = isUsersWord && (opened.path == "/dev" || opened.path.hasPrefix("/dev/"))
        roots.append(Root(directory: opened, spellings: spellings, admitsDevices: isForDevices))
    }

    /// The directories that a name in the image at `path` is relative to, without symbolic links: that of the file, and
    /// that of the link by which it was reached.
    static func directories(of path: String) -> [String] {
        let typed = HostPath.absolute(path)
        let link = HostPath.real(String(typed[...(typed.lastIndex(of: "/") ?? typed.startIndex)]))
        let file = HostPath.real(path).map(PathText.directory)
        return [file, link == file ? nil : link].compactMap { $0 }
    }

    /// The directories that a name in the image at `path`, one of the chain, is relative to.
    private func directories(namedBy path: String) -> [String] {
        if let found, found.path == path { return found.directories }
        return Self.directories(of: path)
    }

    /// Where the file that the image at `path` names could be, in the order to be tried. Throws `.denied` for what is
    /// no file name at all.
    func candidates(_ name: ParentReference.Path, namedBy path: String) throws(ImageError) -> [String] {
        guard !name.text.isEmpty, name.text.utf8.count <= Self.longestName, !name.text.utf8.contains(0) else {
            throw ImageError(.denied, "the image names a file by something that is no file name", file: path)
        }
        let directories = directories(namedBy: path)
        if name.base == .windows { return tails(of: name.text, namedBy: path) }
        guard name.base != .elsewhere, !PathText.hasScheme(name.text) else {
            throw ImageError(
                .denied, "the image names something that is not a local file; that is never opened",
                detail: name.text, file: path)
        }
        if name.base == .host { return [PathText.join("/", name.text)] }
        return directories.map { PathText.join($0, name.text) }
    }

    /// Returns where a file could be whose recorded path is of no use but for its end: the longest end first, below the
    /// directories of the image at `path` and below every one that is allowed.
    func tails(of text: String, namedBy path: String) -> [String] {
        let places = directories(for: path)
        var seen: Set<[UInt8]> = []
        return PathText.tails(text).flatMap { tail in places.map { PathText.join($0, tail) } }
            .filter { seen.insert(Array($0.utf8)).inserted }
    }

    /// The directories in which a file could be that the image at `path` names.
    func directories(for path: String) -> [String] { directories(namedBy: path) + roots.map(\.directory.path) }

    /// The directories that allow `path`, absolute and normalised, and the way to it from there.
    func places(of path: String) -> [Place] {
        roots.indices.compactMap { index in
            roots[index].spellings.lazy.compactMap { PathText.relative(path, to: $0) }.first
                .map { Place(root: index, relative: $0) }
        }
    }

    /// How many directories there are.
    var rootCount: Int { roots.count }

    /// The path of a directory without symbolic links.
    func path(ofRoot root: Int) -> String { roots[root].directory.path }

    /// Names in a directory below one of those that are allowed; see `Directory.visitNames`.
    func visitNames(
        _ place: Place, limit: Int, staysOnFilesystem: Bool = false, _ body: (String, Bool) -> Void
    ) -> Int {
        roots[place.root].directory.visitNames(
            beneath: place.relative.isEmpty ? "." : place.relative, limit: limit,
            staysOnFilesystem: staysOnFilesystem, body)
    }

    /// Opens the file at `path`, absolute and normalised, below the first directory that allows it; for writing too where
    /// `isWritable`. A link that leads out of one of the directories may lead into another one: the file is then opened by
    /// where it really is.
    func open(_ path: String, isWritable: Bool = false) throws(Refusal) -> FileStorage {
        do throws(Refusal) { return try openBeneath(path, isWritable: isWritable) } catch {
            guard error.reason == .outside, let real = HostPath.real(path), real != path,
                let file = try? openBeneath(real, isWritable: isWritable)
            else { throw error }
            return file
        }
    }

    private func openBeneath(_ path: String, isWritable: Bool) throws(Refusal) -> FileStorage {
        var refusal = Refusal(
            reason: .outside,
            error: ImageError(
                .denied, "the image names a file outside its directory; --allow-parents DIR allows one",
                detail: "needs DIR = \(PathText.directory(of: path))", file: path))
        // Where a directory that is allowed lies at the path or below it, it needs no look.
        if roots.contains(where: { root in
            root.spellings.contains { $0 == path || PathText.relative($0, to: path) != nil }
        }) {
            throw Refusal(
                reason: .unusable,
                error: ImageError.directory.named(path))
        }
        for root in roots {
            for spelling in root.spellings {
                guard let relative = PathText.relative(path, to: spelling) else { continue }
                do throws(ImageError) {
                    return try root.directory.openFile(
                        beneath: relative, isWritable: isWritable, admitsDevices: root.admitsDevices)
                } catch {
                    refusal = Self.refusal(of: path, error)
                }
            }
        }
        throw refusal
    }

    private static func refusal(of path: String, _ error: ImageError) -> Refusal {
        if error.kind == .missing { return Refusal(reason: .missing, error: error) }
        guard error.leadsOutside else { return Refusal(reason: .unusable, error: error) }
        let target = HostPath.real(path).map { "leads to \($0)" }
        return Refusal(
            reason: .outside,
            error: ImageError(
                .denied, "the image names a symbolic link that leads outside; --allow-parents DIR allows a directory",
                detail: target, file: path))
    }
}
